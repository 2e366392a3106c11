"""Captioned images in the layouts of the data sets that papers evaluate on."""

from tests.data.readers.question_files import photographs
from tests.data.shelf import write

#: The first captions of the images, by number; there are as many images as are asked for.
TEXTS = ("a dog runs on the grass", "two cats sit on a mat", "a red ball", "a man rides a horse", "a sign says stop")


def _captions(number):
    return [f"{TEXTS[number % 5]} {number}", f"{TEXTS[number % 5]} today"]


def _coco_style(folder, file, names, extra=lambda number: {}, first_id=1):
    """Annotations lie in the reverse order of their images."""
    images = []
    annotations = []
    for number, name in enumerate(names):
        images.append({"id": first_id + number, "file_name": name, **extra(number)})
        for caption in _captions(number):
            annotations.append({"id": len(annotations), "image_id": first_id + number, "caption": caption})
    return write(folder / file, {"images": images, "annotations": annotations[::-1]})


def coco(folder, part="val2014", count=6):
    names = [f"COCO_{part}_{number:012}.png" for number in range(count)]
    photographs(folder / part, *names)
    return _coco_style(folder, f"annotations/captions_{part}.json", names)


def karpathy(folder, name="coco", count=8):
    """The last two images are of the split test, the one before them of restval."""
    images = []
    for number in range(count):
        split = "test" if number >= count - 2 else "restval" if number == count - 3 else "train"
        file = f"{number:06}.png"
        place = "val2014" if name == "coco" else "flickr30k-images"
        photographs(folder / place, file)
        sentences = [{"raw": caption, "sentid": 0} for caption in _captions(number)]
        image = {"filename": file, "imgid": number, "split": split, "sentences": sentences}
        images.append(image | ({"filepath": place, "cocoid": 500 + number} if name == "coco" else {}))
    return write(folder / f"dataset_{name}.json", {"dataset": name, "images": images})


def flickr30k(folder):
    return karpathy(folder, "flickr30k")


DOMAINS = ("in-domain", "near-domain", "out-domain")


def nocaps(folder, count=6):
    names = [f"{number:016x}.png" for number in range(count)]
    photographs(folder / "validation", *names)
    file = "nocaps_val_4500_captions.json"
    return _coco_style(folder, file, names, lambda number: {"domain": DOMAINS[number % 3]}, first_id=0)


def textcaps(folder, part="val", count=6):
    rows = []
    for position in range(2):
        for number in range(count):
            id = f"{part}{number:014x}"
            photographs(folder / "train_images", f"{id}.jpg")
            row = {"image_id": id, "image_name": id, "set_name": part, "caption_str": _captions(number)[position]}
            rows.append(row | {"reference_strs": _captions(number)})
    return write(folder / f"TextCaps_0.1_{part}.json", {"dataset_name": "textcaps", "data": rows})


#: The sentence for an image without content that can be recognised.
PREPARED = "Quality issues are too severe to recognize visual content."


def vizwiz(folder, part="val", count=6):
    """Image 0 has a rejected caption besides others, image 1 has none but a prepared one."""
    images = []
    annotations = []
    for number in range(count):
        name = f"VizWiz_{part}_{number:08}.jpg"
        photographs(folder / part, name)
        images.append({"id": number, "file_name": name, "text_detected": False})
        for caption in _captions(number):
            annotation = {"image_id": number, "is_rejected": number == 0 and not annotations, "is_precanned": False}
            annotation["caption"] = caption
            if number == 1:
                annotation |= {"caption": PREPARED, "is_precanned": True}
            annotations.append(annotation)
    return write(folder / "annotations" / f"{part}.json", {"images": images, "annotations": annotations})


def image_infos(folder, part="test2014", file="image_info_test2014.json", count=4):
    """A list of images without captions, as COCO, NoCaps and VizWiz have it."""
    names = [f"{part}_{number:012}.png" for number in range(count)]
    photographs(folder / part, *names)
    images = [{"id": 70 + number, "file_name": name, "width": 48} for number, name in enumerate(names)]
    return write(folder / file, {"info": {"year": 2014}, "images": images, "categories": []})


def textcaps_test(folder, count=4):
    ids = [f"{number:016}" for number in range(count)]
    photographs(folder / "test_images", *(f"{id}.jpg" for id in ids))
    rows = [{"image_id": id, "image_name": id, "set_name": "test"} for id in ids]
    return write(folder / "TextCaps_0.1_test.json", {"dataset_name": "textcaps", "data": rows})


#: By the name of the task: writes a test set without captions into a folder, and returns its file.
TEST_SETS = {
    "coco": image_infos,
    "nocaps": lambda folder: image_infos(folder, "test", "nocaps_test_image_info.json"),
    "textcaps": textcaps_test,
    "vizwiz_captions": lambda folder: image_infos(folder, "test", "annotations/test.json"),
}

#: By the name of the task: writes a data set in its layout into a folder, and returns its file.
CAPTION_SETS = {
    "coco": karpathy,
    "flickr30k": flickr30k,
    "nocaps": nocaps,
    "textcaps": textcaps,
    "vizwiz_captions": vizwiz,
}
