"""The tokens of each kind of language, and scores computed from them by hand."""

# ruff: noqa: RUF001

import math
import unicodedata

import pytest

from flamingo.evaluation.metrics.corpus import Captions, corpus_statistics, unavailable
from flamingo.evaluation.metrics.tokenization import tokenizer_of


@pytest.mark.parametrize(
    ("language", "caption", "tokens"),
    [
        ("en", "The dogs' ball isn't 3.5 metres.", "the dogs ball is n't 3.5 metres"),
        ("en-GB", "It's grey.", "it 's grey"),
        ("zh", "一只狗，在2008年跑过iPhone！", "一 只 狗 在 2008 年 跑 过 iphone"),
        ("zh-Hant", "「兩隻貓」", "兩 隻 貓"),
        ("ja", "Tシャツを着たラーメン屋。", "t シ ャ ツ を 着 た ラ ー メ ン 屋"),
        ("ja", "ｶﾒﾗ・１２", "カ メ ラ 12"),
        ("ja", "人々〇・～", "人 々 〇"),
        ("de", "Ein Mann fährt's 3,5 km (U-Bahn), heute.", "ein mann fährt's 3,5 km u bahn heute"),
        ("fr", "L’été d'un café : « Oui »", "l’été d'un café oui"),
        ("fr", "cafe\u0301", "caf\u00e9"),
        ("ru", "Собака бежит — по снегу.", "собака бежит по снегу"),
        ("hi", "कुत्ता दौड़ता है।", "कुत्ता दौड़ता है"),
        ("ko", "개가 달린다.", "개가 달린다"),
        ("ar", "كلبٌ أسود؟", "كلبٌ أسود"),
        ("th", "สุนัข", "สุ นั ข"),
        ("de", " ... !", ""),
    ],
)
def test_tokens_of_a_language(language, caption, tokens):
    tokenize = tokenizer_of(language)
    expected = tokenizer_of(language.partition("-")[0])
    assert tokenize is expected
    assert tokenize(caption) == unicodedata.normalize("NFC", tokens)


@pytest.mark.parametrize(
    ("language", "output", "reference", "num_correct", "num_output", "num_reference"),
    [
        # a dog 's ball | the dog 's red ball: dog, 's, ball.
        ("en", "A dog's ball.", "The dog's red ball.", 3, 4, 5),
        # 一 只 狗 在 跑 | 一 只 黑 狗 跑 步: 一, 只, 狗, 跑.
        ("zh", "一只狗在跑", "一只黑狗跑步。", 4, 5, 6),
        # 犬 が 走 る | 黒 い 犬 が 走 る: all four.
        ("ja", "犬が走る。", "黒い犬が走る", 4, 4, 6),
        # der hund läuft | ein hund läuft schnell: hund, läuft.
        ("de", "Der Hund läuft.", "Ein Hund läuft schnell.", 2, 3, 4),
    ],
)
def test_bleu_of_a_language_by_hand(language, output, reference, num_correct, num_output, num_reference):
    [scores] = corpus_statistics(("BLEU-1", "BLEU-2"), [Captions([output], [[reference]], language)])
    brevity = math.exp(1 - num_reference / num_output)
    assert scores["BLEU-1"].value == pytest.approx(num_correct / num_output * brevity, rel=1e-6)
    assert scores["BLEU-1"].about == {"references": [1, 1], "language": language}


def test_cider_of_chinese_by_hand():
    """Two images. Of each n-gram that is in one of them alone the weight is log 2, else 0.

    猫在睡 for the reference 狗在睡: 在 is in both images, 睡 in the first alone. For n = 1 the output has the vector
    (猫: log 2, 睡: log 2), as 猫 is in no reference and counts as in one, the reference (狗: log 2, 睡: log 2), so that
    the cosine is 1/2. For n = 2: 猫在, 在睡 and 狗在, 在睡: also 1/2. For n = 3: 0. There is none for n = 4.
    """
    groups = [Captions(["猫在睡", "鸟在飞"], [["狗在睡。"], ["鸟在飞"]], "zh")]
    [scores] = corpus_statistics(("CIDEr",), groups)
    first = 10 * (0.5 + 0.5) / 4
    # 鸟 and 飞 for n = 1, 鸟在 and 在飞 for n = 2, 鸟在飞 for n = 3 are the same in both: three cosines of 1.
    second = 10 * 3 / 4
    assert scores["CIDEr"].value == pytest.approx((first + second) / 2)
    [as_words] = corpus_statistics(("CIDEr",), [Captions(groups[0].outputs, groups[0].references, "en")])
    assert as_words["CIDEr"].value != pytest.approx(scores["CIDEr"].value)


def test_meteor_and_spice_are_for_english_alone():
    reasons = unavailable(("CIDEr", "BLEU-4", "ROUGE-L", "METEOR", "SPICE"), "de")
    assert reasons.keys() == {"METEOR", "SPICE"}
    assert all("task.language is de" in reason for reason in reasons.values())
    english = unavailable(("METEOR", "SPICE"), "en-GB")
    assert not any("language" in reason for reason in english.values())
