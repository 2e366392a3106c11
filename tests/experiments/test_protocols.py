"""protocol=NAME: prompts are those of the original projects, and the command line wins over the protocol."""

import pytest
import torch
from transformers import CLIPImageProcessorPil

from experiments.benchmark.class_names import class_names
from experiments.cli.hydra_config import compose_config, load
from experiments.setup.evaluation_plan import Plan
from flamingo import FlamingoProcessor
from flamingo.data.document import Affixes, Document, Image, Text
from flamingo.data.pretraining.tokenizer import train_tokenizer
from flamingo.data.question_template import QuestionTemplate
from flamingo.data.records.question_record import QuestionRecord
from flamingo.data.records.record import Record, RecordList
from flamingo.evaluation import EvaluationConfig, cleaned
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.outputs import continuations
from flamingo.evaluation.prompts import build_prompt, render_prompt
from flamingo.evaluation.protocol import Example, Rank
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.evaluation.tasks.pool import Pool, drawn_records
from flamingo.evaluation.tasks.vqa import Vqa
from flamingo.inference.candidates import CandidateTries
from flamingo.utils.errors import UserError

AROUND = "<fake_token_around_image>"


def evaluation(*overrides):
    overrides = ["run=unused", "task.query=Q", "task.support=S", *overrides]
    return load(compose_config("evaluate", overrides), overrides)


def captions(config):
    support = [Record(f"s{i}", Image(f"s{i}.jpg"), (f"cat {i}", f"the cat {i}"), None) for i in range(4)]
    query = Record("q", Image("q.jpg"), ("a dog",), None)
    return Captioning("coco", [query], Pool(support), shown_caption=getattr(config.task, "shown_caption", "first"))


def questions(config):
    def record(name, question, *answers):
        return QuestionRecord(name, Image(f"{name}.jpg"), answers, None, question, None, None, ("question_id", name))

    support = [record(f"s{i}", f"Which {i}?", f"a{i}", f"b{i}", f"b{i}") for i in range(4)]
    template = QuestionTemplate(config.task.question_template)
    query = record("q", "What?", "yes")
    return Vqa("vqav2", [query], Pool(support), template=template, shown_answer=config.task.shown_answer)


#: The option of the group task that stands for the prompts of captions, questions, classes and memes.
OPTIONS = {"captions": ("task=captions", "task.name=coco"), "questions": ("task=vqav2",)}
OPTIONS |= {"classes": ("task=classification", "task.name=imagenet"), "memes": ("task=hateful_memes",)}


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE with one special token for all roles and no BOS of its own, as GPT-NeoX's."""
    texts = ["Output:cat\n Question: Short answer: the cat Image: Caption: Instruction: Which is it?"]
    return train_tokenizer(texts, 300, 1000)


def openflamingo(tokenizer):
    return FlamingoProcessor(CLIPImageProcessorPil(), tokenizer, bos=False)


def idefics(tokenizer):
    marker = f"{AROUND}<image>{AROUND}"
    new = [AROUND, "<image>"]
    return FlamingoProcessor(CLIPImageProcessorPil(), tokenizer, new_tokens=new, end_of_chunk="\n", image_marker=marker)


def shown(config, task, setting, processor):
    """The prompt of a setting as text and tokens, and the numbers of its demonstrations."""
    plan = Plan(config, task, tuple(config.shots))
    [query] = task.queries()
    examples = prompt_examples(task, query, setting)
    prompt = build_prompt(query, examples, setting.with_images, plan.template(processor))
    ids = processor.encode(prompt, prompt=True, pixels=False).input_ids.tolist()
    return render_prompt(prompt), ids, [example.id.removeprefix("s") for example in examples]


def setting_of(config, task, shots):
    settings = Plan(config, task, tuple(config.shots)).settings
    return next(one for one in settings if one.shots == shots and one.control is None)


# mlfoundations/open_flamingo at 655f693: get_caption_prompt and get_vqa_prompt of open_flamingo/eval/models/
# open_flamingo.py. eval/evaluate.py adds a line break to each demonstration, and removes <image> at 0 shots.
OF_CAPTION = "<image>Output:cat {i}<|endofchunk|>\n"
OF_QUESTION = "<image>Question:Which {i}? Short answer:a{i}<|endofchunk|>\n"
OF_MEME = "<image>is an image with: '{q}' written on it. Is it hateful? Answer:{a}"
# Flamingo, arXiv 2204.14198v1, section 4.1.3: "Output: {output}" for all tasks without questions, also ImageNet,
# "Question: {question} Answer: {answer}", and a prompt of HatefulMemes. Closed tasks have no demonstrations at 0 shots
# (section 3.3).
FLAMINGO_CAPTION = "<image>Output: {c}cat {i}<|endofchunk|>"
FLAMINGO_QUESTION = "<image>Question: Which {i}? Answer: b{i}<|endofchunk|>"
FLAMINGO_MEME = '<image>is an image with written: "{q}" on it. Is it hateful? Answer:{a}'
# huggingface/smollm at a041759: template 7 of vision/m4/models/vgpt2/evaluation_captioning_in_context_vgpt2.py, and
# template 9 of evaluation_open_ended_vqa_in_context_vgpt2.py. The prompt is stripped. Of vision/m4/models/idefics/
# evaluation_classification_in_context_idefics.py template 0 of ImageNet1k and 22 of HatefulMemes, which have no BOS.
IDEFICS_CAPTION = "Image:<image>Caption: {c}cat {i}\n"
IDEFICS_QUESTION = "Image:<image>Question: Which {i}? Answer: b{i}\n"
IDEFICS_INSTRUCTION = "Instruction: provide an answer to the question. Use the image to answer.\n"
IDEFICS_CLASS = "<image>a photo of a cat {i}."
IDEFICS_CONVERSATION = (
    "It's a conversation between a human, the user, and an intelligent visual AI, Bot. The user sends memes with text "
    "written on them, and Bot has to say whether the meme is hateful or not."
)
IDEFICS_MEME = '<image>is an image with written "{q}" on it. Is it hateful? Answer:{a}'


@pytest.mark.parametrize(
    ("protocol", "task", "start", "demonstration", "query"),
    [
        ("openflamingo", "captions", "", OF_CAPTION, "<image>Output:"),
        ("openflamingo", "questions", "", OF_QUESTION, "<image>Question:What? Short answer:"),
        # get_imagenet_prompt and get_hateful_memes_prompt, without a line break.
        ("openflamingo", "classes", "", "<image>Output:cat {i}<|endofchunk|>", "<image>Output:"),
        (
            "openflamingo",
            "memes",
            "",
            OF_MEME.format(q="Which {i}?", a="a{i}<|endofchunk|>"),
            OF_MEME.format(q="What?", a=""),
        ),
        ("flamingo", "captions", "", FLAMINGO_CAPTION, "<image>Output:"),
        ("flamingo", "questions", "", FLAMINGO_QUESTION, "<image>Question: What? Answer:"),
        ("flamingo", "classes", "", FLAMINGO_CAPTION, "<image>Output:"),
        (
            "flamingo",
            "memes",
            "",
            FLAMINGO_MEME.format(q="Which {i}?", a=" a{i}<|endofchunk|>"),
            FLAMINGO_MEME.format(q="What?", a=""),
        ),
        ("idefics", "captions", "", IDEFICS_CAPTION, "Image:<image>Caption:"),
        ("idefics", "questions", IDEFICS_INSTRUCTION, IDEFICS_QUESTION, "Image:<image>Question: What? Answer:"),
        ("idefics", "classes", "", IDEFICS_CLASS, "<image>a photo of a"),
        (
            "idefics",
            "memes",
            IDEFICS_CONVERSATION,
            IDEFICS_MEME.format(q="Which {i}?", a=" a{i}"),
            IDEFICS_MEME.format(q="What?", a=""),
        ),
    ],
)
@pytest.mark.parametrize("shots", [0, 4])
def test_prompts_are_those_of_the_original_project(protocol, task, start, demonstration, query, shots, tokenizer):
    # Flamingo classifies images of ImageNet at 8 and 16 shots.
    four = ["shots=[0,4]"] if (protocol, task) == ("flamingo", "classes") else []
    config = evaluation(*OPTIONS[task], f"protocol={protocol}", *four)
    made = captions(config) if task in ("captions", "classes") else questions(config)
    processor = idefics(tokenizer) if protocol == "idefics" else openflamingo(tokenizer)
    text, ids, numbers = shown(config, made, setting_of(config, made, shots), processor)
    closed = task in ("classes", "memes")
    text_only = protocol == "openflamingo" or (protocol == "flamingo" and not closed)
    assert len(numbers) == (4 if shots == 4 else 2 if text_only else 0)
    expected = start
    for number in numbers:
        # The caption of these protocols is drawn: what was drawn is looked up.
        drawn = "the " if f"the cat {number}" in text else ""
        expected += demonstration.format(i=number, c=drawn)
    if shots == 0:
        expected = expected.replace("<image>", "")
    expected += query
    if protocol == "idefics":
        # In the text of a result file the end of each chunk is <|endofchunk|>.
        assert text == start + expected.removeprefix(start).replace("\n", "<|endofchunk|>")
        expected = expected.replace("<image>", f"{AROUND}<image>{AROUND}")
        if not closed:
            expected = tokenizer.bos_token + expected
    else:
        assert text == expected
    assert ids == processor.tokenizer(expected)["input_ids"]


@pytest.mark.parametrize(("protocol", "text"), [("openflamingo", "{}"), ("idefics", " {}."), ("flamingo", " {}")])
def test_candidates_have_the_tokens_that_the_project_scores(protocol, text, tokenizer):
    config = evaluation(*OPTIONS["classes"], f"protocol={protocol}")
    processor = idefics(tokenizer) if protocol == "idefics" else openflamingo(tokenizer)
    template = Plan(config, None, (0,)).template(processor)
    names = tuple(class_names(100))
    query = Example("q", Image("q.jpg"), ("a",))
    request = Rank(names, config.task.rank_by, config.task.end)
    texts = continuations(query, request, template)
    assert texts == [text.format(name) for name in names]
    trie = CandidateTries(processor, end=False).of(build_prompt(query, [], template=template), texts)
    for end, name in zip(trie.ends[::5], names[::5], strict=True):
        # OpenFlamingo's get_rank_classifications tokenizes a name alone. IDEFICS and Flamingo score what follows.
        assert [trie.tokens[node] for node in trie.path(end)] == tokenizer(text.format(name))["input_ids"]
    assert request.by == ("mean" if protocol == "openflamingo" else "sum")


def test_values_are_those_of_the_protocol_and_of_the_tasks_name():
    config = evaluation("task=textvqa", "protocol=openflamingo")
    assert (config.max_new_tokens, config.shots, config.text_only) == (10, [4, 8, 16, 32], True)
    assert (config.task.support_size, config.task.shown_answer, config.length_penalty) == (2048, "first", 0.0)
    assert evaluation("task=vqav2", "protocol=openflamingo").max_new_tokens == 5
    idefics = evaluation("task=vqav2", "protocol=idefics")
    ranked = evaluation(*OPTIONS["classes"], "protocol=openflamingo").task
    assert (ranked.rank_by, ranked.end, ranked.support_size) == ("mean", False, 2048)
    assert (idefics.max_new_tokens, idefics.length_penalty, idefics.text_only) == (15, 1.0, False)
    for protocol in ("flamingo", "idefics"):
        memes = evaluation("task=hateful_memes", f"protocol={protocol}")
        assert (memes.shots, memes.text_only, memes.cut_at) == ([0, 4, 8, 16, 32], False, [])
        assert (memes.task.rank_by, memes.task.end, memes.bos) == ("sum", True, protocol == "flamingo")


def test_the_command_line_wins_over_the_protocol():
    config = evaluation("task=vqav2", "protocol=openflamingo", "shots=[2]", "task.shown_answer=majority")
    assert (config.shots, config.task.shown_answer, config.max_new_tokens) == ([2], "majority", 5)


def test_without_a_protocol_nothing_changes():
    config = evaluation("task=vqav2")
    assert config.protocol == {}
    assert config.task.question_template == QuestionTemplate().text
    assert (config.separator, config.cut_at, config.length_penalty) == ("", [], 0.0)


def test_a_kind_of_task_that_a_protocol_lacks_is_named():
    overrides = ["run=unused", "task=synthetic_captions", "protocol=openflamingo"]
    with pytest.raises(UserError, match=r"protocol=openflamingo .*task\.kind is synthetic_captions"):
        load(compose_config("evaluate", overrides), overrides)


# open_flamingo/eval/vqa_metric.py: re.split("Question|Answer|Short", ...)[0], then re.split(", ", ...)[0];
# coco_metric.py: split("Output")[0], and evaluate.py removes quotation marks.
@pytest.mark.parametrize(
    ("task", "output", "expected"),
    [
        ("vqav2", "red, blue Question: no", "red"),
        ("vqav2", "red Short, Answer", "red "),
        ("vqav2", "1,000", "1,000"),
        ("captions", 'a "red" catOutput:a dog', "a red cat"),
    ],
)
def test_outputs_are_cut_and_cleaned_as_in_openflamingo(task, output, expected):
    named = ["task.name=coco"] if task == "captions" else []
    assert cleaned(output, evaluation(f"task={task}", "protocol=openflamingo", *named)) == expected


def test_the_separator_sees_the_image_before_it(tokenizer):
    processor = openflamingo(tokenizer)
    parts = [Image("a.jpg"), Text("x"), Image("b.jpg"), Text("y")]
    example = processor.encode(Document(parts, affixes=Affixes("p", "b", "\n")), prompt=True, pixels=False)
    tokens = tokenizer.convert_ids_to_tokens(example.input_ids)
    assert list(zip(tokens, example.image_index.tolist())) == [
        *(("p", -1), ("b", -1), ("<image>", 0), ("x", 0), ("<|endofchunk|>", 0), ("Ċ", 0), ("b", 0)),
        *(("<image>", 1), ("y", 1)),
    ]
    trained = processor.encode(Document(parts, affixes=Affixes("p", "b", "\n")), pixels=False)
    is_affix = torch.tensor([token in ("p", "b", "Ċ") for token in tokenizer.convert_ids_to_tokens(trained.input_ids)])
    assert is_affix.sum() == 4 and (trained.labels[is_affix] == -100).all()


def test_a_special_token_between_chunks_is_refused(tokenizer):
    document = Document([Image("a.jpg"), Text("x")], affixes=Affixes(before_image="<image>"))
    with pytest.raises(UserError, match="special token <image>"):
        openflamingo(tokenizer).encode(document, prompt=True, pixels=False)
    document = Document([Image("a.jpg"), Text("x")], affixes=Affixes(end_of_chunk=". <image>"))
    with pytest.raises(UserError, match="special token <image>"):
        openflamingo(tokenizer).encode(document, prompt=True, pixels=False)


def test_a_part_of_the_support_is_drawn_once():
    records = RecordList([Record(str(i), Image("a.jpg"), ("x",), None) for i in range(50)], {})
    drawn = [record.id for record in drawn_records(records, 20)]
    assert len(set(drawn)) == 20 and drawn == sorted(drawn, key=int) != [str(i) for i in range(20)]
    assert drawn == [record.id for record in drawn_records(records, 20)]
    assert drawn_records(records, None) is records and drawn_records(records, 50) is records


@pytest.mark.parametrize("values", [{"cut_at": [""]}, {"removed": [""]}, {"length_penalty": float("nan")}])
def test_wrong_values_of_outputs_are_refused(values):
    with pytest.raises(UserError, match=next(iter(values))):
        EvaluationConfig(**values)
