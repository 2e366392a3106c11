"""Captions become the tokens that coco-caption scores: those of Stanford's PTBTokenizer."""

# ruff: noqa: RUF001

import contextlib
import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flamingo.evaluation.metrics.tokenization.ptb import tokenize

#: Made by the Java tokenizer and pycocoevalcap.
EXPECTED = {
    "A man doesn't see the dog's ball, and they've gone.": ("a man does n't see the dog 's ball and they 've gone"),
    "I can't, won't and CANNOT; we're gonna wanna gimme lemme got ta gotta.": (
        "i ca n't wo n't and can not we 're gon na wan na gim me lem me got ta got ta"
    ),
    "'Tis the boys' toy: rock 'n' roll of the '90s in '90": ("'t is the boys toy rock 'n' roll of the '90s in '90"),
    "O'Brien said o'clock, D'Angelo's c'mon, y'all ma'am Hawai'i": (
        "o'brien said o'clock d'angelo 's c'mon y' all ma'am hawai'i"
    ),
    "He'd've gone more'n once; get 'em, 'til 'twas 'cause": ("he 'd 've gone more 'n once get 'em 'til 't was 'cause"),
    "\"Two\" 'men' ``in'' `hats' say \"hi!\"": ("two men in hats say hi"),
    "A dog (left), a cat [right] and {one} more.": (
        "a dog -lrb- left -rrb- a cat -lsb- right -rsb- and -lcb- one -rcb- more"
    ),
    "A T-shirt, black-and-white, 3-year-old, rock-n-roll, co-op, x-ray - a pre-World War-II": (
        "a t-shirt black-and-white 3-year-old rock-n-roll co-op x-ray a pre-world war-ii"
    ),
    "A dog-- a cat --- a ---- b ----- c": ("a dog a cat a b ----- c"),
    "It costs $5.99, US$5, 5%, 1,000 or #5.": ("it costs $ 5.99 us$ 5 5 % 1,000 or # 5"),
    "At 10:30pm or 5 a.m. on 1/2/2010 he ate 1 1/2 of 3/4.": (
        "at 10:30 pm or 5 a.m. on 1/2/2010 he ate 1\xa01/2 of 3/4"
    ),
    "The 1st, 2nd, 1990s, 1950's, 5'10\" and 6'2": ("the 1st 2nd 1990s 1950 's 5 10 and 6 2"),
    "Call (555) 555-1234 or 1-800-555-1234": ("call -lrb-555-rrb-\xa0555-1234 or 1-800-555-1234"),
    "Mr. Smith and Dr. Who of Acme Inc. in the U.S. in Feb. or Sat.": (
        "mr. smith and dr. who of acme inc. in the u.s. in feb. or sat"
    ),
    "No. 5 and no. one, Ph.D., e.g. this, i.e. that, etc.": ("no. 5 and no one ph.d. e.g. this i.e. that etc."),
    "the letter P. The man, J. K. Rowling and D.C. again": ("the letter p the man j. k. rowling and d.c. again"),
    "the letter P.": ("the letter p."),
    "a dog., a cat.: x": ("a dog. a cat. x"),
    "hello.world hello..world hello...world . . . x .... !!! ?! !? a!b": (
        "hello.world hello world hello world x !!! ?! !? a!b"
    ),
    "a and/or b, 1/a, a/b/c/d, w/ a, a / b, */* ** * a*b": ("a and/or b 1/a a/b/c / d w / a a / b * / * ** * a * b"),
    "AT&T, R&D, A&M, Q & A, a&b, Lounge&Grill, A&amp;M &lt;b&gt; &quot;x&quot; &nbsp; C++ C#": (
        "at&t r&d a&m q & a a & b lounge & grill a&m < b > x c++ c#"
    ),
    "http://www.foo.com/bar?x=1, www.foo.com foo.com/abc a@b.com @user #tag file.txt": (
        "http://www.foo.com/bar?x=1 www.foo.com foo.com/abc a@b.com @user #tag file.txt"
    ),
    ":) :-( ;) :D =] :/ <3 ^_^ (^_^) -_- :))": (":-rrb- :--lrb- ;-rrb- :d =] / < 3 ^_^ -lrb-^_^-rrb- -_- :-rrb- -rrb-"),
    '<br/> <a href="x y"> a < b > c << d': ('<br/> <a\xa0href="x\xa0y"> a < b > c << d'),
    "a_b _a a~b a^b a=b a+b a|b a\\b a%b a@b # ## @ _": (
        "a_b _ a a ~ b a ^ b a = b a + b a | b a \\ b a % b a@b # ## @ _"
    ),
    "the colour grey of the centre, a favourite programme": ("the colour grey of the centre a favourite programme"),
    "café CAFÉ naïve ñandú Straße": ("café café naïve ñandú straße"),
    "“Don’t” ‘em ’til l’eau O’Brien’s y’all ’90 «so»": ("do n't em ’til l’eau o’brien 's y’ all ’90 so"),
    "a–b — c … d½ 1½ ¼ ⅓ 5° × 10 cm² €5 £5 ¢5 ¥5": ("a b c d 1/2 1 1/2 1/4 1/3 5 ° × 10 cm ² $ 5 # 5 cents 5 ¥ 5"),
    "soft\xadhyphen a😀b ★ ♥ © ™ 日本語 привет": ("softhyphen a b ★ ♥ © ™ 日本語 привет"),
}
#: What a caption hardly has; compared where there is Java.
TRICKY = r"""b'b  dog's  b dog's-b  b dog'sb  b dog's5  b dogs'b  dog'll  dog'llb  can'tb
5n't  n't  dn't  nn't  don'tx  don`t  don‘t  dog`s  dog‘s
dog&apos;s  5's  5'll  's  'sb  's5  'll  'lls  b 're
b 've.  'd,  'm  't  b n'b  'n  'n'  `n'  n'
rock'n'  b rock 'n roll  O'b  O'bb  o'bb  a'bb  d'b  d'5  l'bb
D'bb's  qu'il  Hawai'i  Qur'an  fo'castle  mo'B  mo'b  ma'am  ba'aa
ba'ba  'em  'emb  'ems  'til  'tilb  'till  'tills  'cause
'causes  '20s  '10s  '20ss  '20  '205  b '20-b  b '20.   b '20
'20,  cont'd  cont'd.  'twas  'twasn't  'tis  'tisb  twas  nor'easter
nor'easters  c'mon  c'mons  e'er  ne'er  s'more  s'mores  ev'ry  li'l
nat'l  o'o  y'all  b y'  y'5  b y' all  somethin'  nothin'  walkin'
ol'  ol'b  lil'  jus'  th'  dunkin'  Dunkin's  j'b  d'
l'  s'  d'ye  d'you  more'n  more'nb  less'n  whatd'ya  cap'n
Cap'n  Cap’n  c'est  ain'ts  o'clock  5 o'clock's  fo'c'sle  rock-n-roll  rock'n'roll
rock-'n'-roll  R'n'B  drum'n'bass  mom's'  moms's  it'd've  couldn't've  cannot've  cannots
cannot-b  gonna-b  gonnas  can not  gottas  lemmeb  Gimme,  dunnot  shalln't
an't  b n't  'nt  y'all'd  they're's  'Tis  'EM  'TIL  D'YE
MORE'N  GON'NA
Mr.b  Mr.5  Mr.'s  Mr.-b  Mr."  Feb.b  Feb.5  Feb."  Feb.)  Inc.)  Inc.'s  Corp.'s b
No.5 b  No. 5 b  No.  5 b  No.-5  No. five  No.1-rated  figs. 3  Fig. A  p. 5  pp.5  etc.) b  etc." b
etc.) B  U.S.) b  U.S." b  U.S.'s b  U.S., b  U.S.; b  U.S.A b  U.S  U.S-based  U.S.-Based  a.m.-b  dog., b
dog.; b  dog.: b  dog.) b  dog.' b  dog.' B  dog.s  5., b  a5., b  Ph.D  Ph.D.  Ph. D. b  Ed.D. b
B.Sc.  J.R.R. Tolkien  J.R.R.  D.C b  D.C. Metro  e.g b  i.e., b  A.B.C.D.E  1.a b  a.1  a1.b  a.b1.c
L.L.Bean  L. L. Bean  St.John b  St. John's b  mr.bean  Mr.Bean
a@b  aa@bb  aa@bb.cc  @aa  a@  @  5@5  a5@b  a@5  a@@b  a@b@c  (7)
(7.5)  (7) b  (77)   &nbsp;b  b&nbsp;b  :D  :Db  :D5  =d  =d.  :db  :p:p
;)b  :(b  Lounge&Grill  LOUNGE&Grill  A&b  A&B  AA&BB  A&amp;B  AA&5  5&5  A1&B  R&B's
R&B-b  B&B&B  AT&T.  at&t  A & B  5., b  a5., b  5.;  dog.,  dog.:  dog.;  dog-a.,
dog's.,  dog.!,  a.b.,  5th.,  5-5.,  3D.,  D3.,  1/2.,  $5.,  '90s.,  5.5.,
letter P. The  P. The  . P. The  x. P. The  5 P. The  , P. The  a P. The  a P. A  J.K. P. The  The P. The
É P. The  a-P. The
$P. The  'P. The  "P. The  ) P. The  Mr. P. The  .P. The  a.b,c@d!e f  a@b.c  a@b.  a@b, c  a@b.c, d  a@b-
a@b'  a@b(  a@b"  a,b@c  a;b@c!  5.@b  'a@b  $a@b  -a@b  a-@b  a@-b  a@.b
a@b..c  a/b@c  a&b@c  a@b&c  é@b  a@é  a@b😀  a@b“  aé@b  A+B  A+b  AA+BB&CC
C++  C#  A+A+  a+b  A-B&C  A&B-C  :-)  :-)b  :o)  :')  :*)  :O)
:/  :{  :}  :@  :|  :[  :]  8)  B)  ;-)  <:)  >:(
=)  :))  :(.  :).  :)'  :)-  :)é  :)_  :D)  :DD  XD  :S
:-D  :-d  :-P.  :-b  :3  <3  ^^  ^_^  ^.^  x.x  x_x  -_-
-.-  >_<  ~_~  (^_^)  (^^)  (-_-)  (^-^)  ('_')  (x_x)  (>.<)  =.=  '_'
-_-b  x_xb  bx_x  ^.^b  >.>  o_o
a P. The, b  a P. The. b  a P. He's b  a P. The  a P. the b  a P. THE b  a p. The b  a é. The b  a-P. The b
a-p. The b  5-p. The b  x.P. The b
P. <b>  P. <b> x  P. </b> x  P.<b> x  P. &lt;b  P. < b  ab-P. The b  'p. The b  a.p. The b  a_P. The b  P. A.  P. I b
P. I'm b  P.    The b
<<<  <<<<  >>>  <>  <b  <b >  <b c>  <3>  <a (b) [c] “d” — & &amp; 1/2 ½>  ''''  '''  ''
``  ```  ````  `'  '`  `’  ’'  ’’  ’’’  ‘’  ’‘  “”
”“  ““  “““  «»  ‹›  "'  '"  ‘'  „“  ‚’  “‘  ’”
”’  ””  “"  ‛‛  »»  ««  ‘‘‘  ‚‚  „„  ‟‟  ‛'  ''b
b''b  b''  http://a.b  https://  http://x  HTTP://a.b  http://a.b.  http://a.b/  http://a.b/)  www.a.com
WWW.a.com  www.a
www.a.b.c  www.ab.abcde  a.com  A.COM  a.comx  a.com.  a.com's  a.net/b  a.net/b.  a.net/bc.  a-b.com  a.de
a.co.uk  a.b.com  a.org:80  a.edu,b  é.com
5a.txt  a-b.txt  a_b.txt  5.txt b  a.b5.txt  5.5.txt  5a.txt.  5a.txt!  5a.txt:  5a.txt)  5a.txt-b  5a.txt's
x5.TXT  x 5.c  x 5.h b  5.jar  5.x  P. Ms. b  P. Mr. b  P. Mrs. b  P. Dr. b  P. Mr b  P. MR. b  P. mr. b
'n  B.Sc. b  Ed.D.b  Ph.D-b  Ph.D.  x Ph.D. The b  a--b  ----  -----  a---b  - - -  -5-5
+5  +a  5+5  5-  5-b-  b-5-  -b-b  b-_b  b_-b  b--5  5/b  5/5/b
a/b/c/d  a/b-c/d  a-b/c-d  a-b-c/d  a-b-c-d/e  a/  /a  a/5/b  1/2-b  1/2b  1/22222  11111/2
1 1/2  1-1/2  11111 1/2  1/2/3  1/2/33  1/2/3333  1-2-3  1-2-33  1/2-33  5:30  5:30:15  5:30-b
5,5,5  5,55b  5.b  5.5b  .5b  ,5  :5  5.5.5  5..5  $.5  $5.5b  b$5
US$5  us$5  AbC$5  $$5  5$5  #5  #5b  #b5  #b-b  ##b  b#b  (5)b
(555) 555-5555  (555)555-5555  555-555  555 5555  555 5555 b  55 55 555  555-5555-555  555.555.5555
+1 555 555 5555  +15555555  1 2 3 4  10 100 1000
100 100 b  1000 1000  12 3456  12 345  123 456  20 2000 5  5 000  caf&eacute; b  &eacute  a(b)@c  -LRB- b  -lrb- b
'90s'  OL' b  C'EST b  C'MON b  CONT'D. b  s'Mores  S'MORES  gon na  GotTa  canNot  'N b
O’Brien b  O`Brien  O‘Brien  Hawai’i b  c’mon  ’em b  ol’ b  ’til  y’all b  ’90s  ’90 b  ’tis
don’t  cont’d.  nor’easter  Éa’b  ñ'bb  é’É  a'É  o’o  l’eau  l‘eau  l`eau  J’b
5’s  ’s  ‘s  ’ve been  dog’s  dogs’ b  ‘dog’ b  ’dog’ b  ‘em  `em b  CAP’N b  a-b­-c
l'é-b  l’é-b  a.b-c­d  3.5-inch  e.g.-b  x.y.-z  #a’b  @a’b  x/y’s  x/’y  Ed’s  n’t
I’d’ve  y'’b
""".splitlines()


def java(captions: list[str]) -> list[str]:
    """What pycocoevalcap makes of each caption alone: before a small word no full stop is the end of a sentence."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stderr(io.StringIO()):
        made = PTBTokenizer().tokenize({0: [{"caption": line} for caption in captions for line in (caption, "b")]})
    return made[0][::2]


def captions_in(place: Path) -> Iterator[str]:
    """Lines of ``.txt``; ``captions`` of the rows of ``.jsonl``, ``.jsonl.gz`` and the JSON files of a ``.tar``."""
    if place.is_dir():
        for file in sorted(place.iterdir()):
            yield from captions_in(file)
    elif place.suffix == ".tar":
        with tarfile.open(place) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    yield from json.load(tar.extractfile(member))["captions"]
    elif place.suffix == ".txt":
        yield from place.read_text().splitlines()
    elif ".jsonl" in place.suffixes:
        with gzip.open(place, "rt") if place.suffix == ".gz" else place.open() as lines:
            for line in lines:
                yield from json.loads(line)["captions"]


@pytest.fixture
def utf8_java(monkeypatch):
    if shutil.which("java") is None:
        pytest.skip("there is no java")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=UTF-8")


@pytest.mark.parametrize("caption", EXPECTED)
def test_tokens_equal_those_recorded_from_the_java_tokenizer(caption):
    assert tokenize(caption) == EXPECTED[caption]


def test_tokens_are_those_of_the_java_tokenizer(utf8_java):
    captions = [*EXPECTED, *TRICKY]
    assert list(map(tokenize, captions)) == java(captions)


@pytest.mark.skipif("FLAMINGO_CAPTIONS" not in os.environ, reason="FLAMINGO_CAPTIONS names no file or folder")
def test_tokens_of_a_whole_data_set(utf8_java):
    captions = list(captions_in(Path(os.environ["FLAMINGO_CAPTIONS"])))
    assert captions, "there are no captions"
    pairs = zip(captions, map(tokenize, captions), java(captions), strict=True)
    differ = [(caption, ours, theirs) for caption, ours, theirs in pairs if ours != theirs]
    assert not differ, f"{len(differ)} of {len(captions)} captions differ, such as {differ[:5]}"


def test_a_caption_is_one_line():
    assert tokenize("a dog\nruns .\r\n A cat\u2028sits") == "a dog runs a cat sits"
    assert tokenize("") == tokenize(" \n") == tokenize("...") == ""
