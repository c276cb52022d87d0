"""How a plan is shown."""

from types import SimpleNamespace

from nlp_transfer.running.plan import _task_words


def test_a_label_takes_one_line_and_few_characters_however_it_is_written():
    balance = {"train": {"two\nlines": 3, "x" * 300: 2} | {str(label): 1 for label in range(1_200)}}
    words = _task_words(SimpleNamespace(problem="single_label", balance=balance))
    assert words.startswith(f"single-label, 1,202 labels: two lines 3, {'x' * 39}… 2, 0 1, 1 1")
    assert "\n" not in words
    assert words.endswith("5 1, … 1199 1")
