"""What reads the pages notices a page that is wrong."""

import page_blocks
import pytest

PAGE = """
Write `my.toml`:

```toml
epochs = 1
```

```console
$ xpnet show my.toml  # exit code 2
error: ...
$ cat my.toml
epochs = 1
```

```python
x = 1
```

```python
print(x + 1)
```

```text
2
```
"""


def read(text):
    return page_blocks.blocks(text)


def run(text, folder, monkeypatch):
    monkeypatch.chdir(folder)
    return page_blocks.run(folder / "page.md", text)


def test_a_page_runs_from_its_first_block_to_its_last(tmp_path, monkeypatch):
    assert run(PAGE, tmp_path, monkeypatch) == 5
    assert (tmp_path / "my.toml").read_text() == "epochs = 1\n"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("x + 1", "x + 2"),
        ("x = 1", "x = 1 +"),
        ("x = 1", "y = 1"),
        ("epochs = 1\n```\n\n```python", "epochs = 2\n```\n\n```python"),
        ("exit code 2", "exit code 1"),
        ("  # exit code 2", ""),
        ("error: ...", "warning: ..."),
        ("cat my", "sed my"),
        ("cat my", "cat your"),
    ],
)
def test_what_a_page_promises_and_does_not_keep_is_noticed(right, wrong, tmp_path, monkeypatch):
    assert right in PAGE
    with pytest.raises((AssertionError, NameError, SyntaxError)):
        run(PAGE.replace(right, wrong), tmp_path, monkeypatch)


def test_a_mark_is_read_and_keeps_a_block_from_running(tmp_path, monkeypatch):
    page = "*(needs the network)*\n\n```python\n1 / 0\n```\n"
    assert [block.mark for block in read(page)] == ["needs the network"]
    assert run(page, tmp_path, monkeypatch) == 0


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...", "a", True),
        ("test accuracy 0.9...", "test accuracy 0.9833", True),
        ("a", "a\nb", False),
        ("a\n...\nd", "a\nb", False),
        ("a...b", "a\nb", False),
        ("a.c", "abc", False),
    ],
)
def test_dots_stand_for_what_may_differ(shown, printed, same):
    if same:
        page_blocks.compare(shown, printed, "here")
    else:
        with pytest.raises(AssertionError, match="here shows"):
            page_blocks.compare(shown, printed, "here")


def test_an_argument_that_a_command_does_not_take_is_noticed():
    from click import UsageError

    page_blocks.check_arguments(["--plugin", "a.py", "train", "a.csv", "--label", "b"])
    with pytest.raises(UsageError):
        page_blocks.check_arguments(["train", "--labels", "b"])
    with pytest.raises(AssertionError, match="no command"):
        page_blocks.check_arguments(["trains"])


def test_an_extra_that_is_not_there_is_noticed():
    pyproject = "[project.optional-dependencies]\nonnx = []\n"
    page_blocks.check_installs(["pip", "install", ".[onnx]"], pyproject)
    with pytest.raises(AssertionError):
        page_blocks.check_installs(["pip", "install", ".[onnx,jax]"], pyproject)


def test_a_command_may_go_on_in_the_next_line():
    block = read("```console\n$ xpnet train \\\n    a.csv && xpnet show runs/a\nprinted\n```\n")[0]
    first, second = page_blocks.commands(block)
    assert (first.words, first.printed) == (["xpnet", "train", "a.csv"], "")
    assert (second.words, second.printed) == (["xpnet", "show", "runs/a"], "printed\n")
