import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.cleaning import clean_text

BOTH = ("html", "whitespace")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        # AG News: the ampersand is gone, a blank stands in its place.
        ("the river #39;s bank", "the river's bank"),
        ("he said  #39;never #39; twice", "he said 'never' twice"),
        ("the  quot;short quot; list", 'the "short" list'),
        ("quot;Yes, quot; she said", '"Yes," she said'),
        ("#39;tis", "'tis"),
        ("Salt  amp; Pepper of S amp;P", "Salt & Pepper of S&P"),
        ("a  #36;136 note", "a $136 note"),
        ("one  #151; two", "one — two"),
        ("caf eacute; noir", "café noir"),
        ("wait  hellip; now  #x2014; go", "wait … now — go"),
        ("more &lt;b&gt;...&lt;/b&gt; PORT", "more ... PORT"),
        ('see &lt;A HREF="http://x.example/q?a=1&b=2"&gt;ABC.O&lt;/A&gt;', "see ABC.O"),
        ("end.&lt;/p&gt;&lt;p&gt;Next", "end. Next"),
        ('(ABC) &lt;FONT face="arial" size="-2"\\color="#666"&gt;x&lt;/FONT&gt;', "(ABC) x"),
        ("shares of <ABC.O> and <XYZ>", "shares of <ABC.O> and <XYZ>"),
        # Whole entities and tags.
        ("Tom &amp; Ann&#39;s &quot;x&quot; &lt; y", 'Tom & Ann\'s "x" < y'),
        ("good.<br /><br />Bad", "good. Bad"),
        ("<i>very</i>much<!-- no -->so", "verymuch so"),
        ("twice &amp;lt;i&amp;gt;escaped", "twice escaped"),
        # Prose that only looks like it.
        ("a < b and b > c", "a < b and b > c"),
        ("if a <b and c> d", "if a <b and c> d"),
        ("No. #10; ranked #1; one of the times; part; sum;", None),
        ("AT&T; R&D", None),
        ("x.example/clk;9228975;9651165;a", None),
        ("5 &notanentity; 6", None),
    ],
)
def test_html(raw, clean):
    assert clean_text(raw, BOTH) == (raw if clean is None else clean)


def test_whitespace():
    assert clean_text(" a\t b\n\u00a0 c ", ("whitespace",)) == "a b c"


def test_without_steps_nothing_changes():
    assert clean_text(" <b> #39; ", ()) == " <b> #39; "


def test_unknown_step():
    with pytest.raises(ValueError, match="stemming"):
        clean_text("x", ("stemming",))


@given(st.text())
def test_any_text_is_survived_and_whitespace_is_single(text):
    clean = clean_text(text, BOTH)
    assert clean == " ".join(clean.split())


@given(st.text(alphabet=st.characters(exclude_characters="&;<>#")))
def test_plain_prose_is_untouched(text):
    assert clean_text(text, ("html",)) == text


def test_light_modules_stay_light():
    """The login node must not import torch, transformers or datasets for these."""
    code = (
        "import sys, training.sources, training.tokens, training.cleaning, training.tables\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'tokenizers', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
