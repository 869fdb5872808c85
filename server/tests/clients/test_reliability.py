"""docs/reliability.md: every test that it names is there, every fault has its row, every promise leads to its rows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "reliability.md"
# Of the tables: the faults, what other servers and libraries taught, and the promises that are no fault's.
ROWS = {
    *(f"F{number}" for number in range(1, 36)),
    *(f"L1{part}" for part in "abcde"),
    *(f"L{number}" for number in range(2, 11)),
    *(f"T{number}" for number in range(7, 11)),
}
PROMISES = [f"T{number}" for number in range(1, 11)]
TEST = re.compile(r"`([\w./-]+)::(\w+)`")
LINK = re.compile(r"\[([^\]]+)\]\(#([\w-]+)\)")
NO_TEST = "no test: "


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def rows(text: str) -> list[tuple[str, list[str]]]:
    """The rows of all tables with the anchor of the section that each is in."""
    found, section = [], ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = slug(line.removeprefix("## "))
        elif line.startswith("| ") and not line.startswith("| |"):
            found.append((section, [cell.strip() for cell in line.strip("|").split("|")]))
    return found


def named(text: str) -> list[tuple[str, str]]:
    """The tests that a text names: file and function."""
    return TEST.findall(text)


def is_test(file: Path, name: str) -> bool:
    """Whether a file has a test of this name, and not only a function."""
    if not file.is_file():
        return False
    text = file.read_text()
    if file.suffix == ".py":
        return name.startswith("test_") and re.search(rf"^def {name}\(", text, re.MULTILINE) is not None
    attributes = r"#\[(?:tokio::)?test\]\s+(?:#\[[^\n]+\]\s+)*"
    return re.search(rf"{attributes}(?:async )?fn {name}\(", text) is not None


TEXT = DOCUMENT.read_text()
FAULTS = [(section, cells) for section, cells in rows(TEXT) if section]


@pytest.mark.parametrize(("file", "name"), sorted(set(named(TEXT))), ids=lambda part: part)
def test_named_test_is_there(file: str, name: str) -> None:
    assert is_test(ROOT / file, name), f"{file} has no test {name}"


def test_every_row_is_there_once() -> None:
    ids = [cells[0] for _, cells in FAULTS]
    assert sorted(ids) == sorted(ROWS)


@pytest.mark.parametrize("cells", [cells for _, cells in FAULTS], ids=lambda cells: cells[0])
def test_every_row_names_its_tests_or_says_why_there_is_none(cells: list[str]) -> None:
    _, fault, does, shown, _ = cells
    assert fault
    assert does
    assert bool(named(shown)) != shown.startswith(NO_TEST), shown
    # Nothing else stands in the place of a test.
    assert shown.startswith(NO_TEST) or TEST.sub("", shown).replace(", ", "") == "", shown


def test_every_promise_leads_to_its_rows() -> None:
    places = {cells[0]: section for section, cells in FAULTS}
    promises = [cells for section, cells in rows(TEXT) if not section]
    assert [cells[0] for cells in promises] == PROMISES
    for promise, _, links in promises:
        leads = LINK.findall(links)
        assert leads, promise
        for label, anchor in leads:
            listed = re.findall(r"[FLT]\d+", label)
            assert listed, f"{promise}: {label}"
            for row in listed:
                place = places.get(row, places.get(f"{row}a"))
                assert place == anchor, f"{promise}: {row} is in {place}, not in {anchor}"


def test_links() -> None:
    """Every link in the page leads to something."""
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    links = re.findall(r"\]\(([^)\s]+)\)", TEXT)
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = DOCUMENT.parent / path if path else DOCUMENT
        assert target.is_file(), link
        known = {slug(h) for h in re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)} if path else anchors
        assert not anchor or anchor in known, link


def test_what_is_no_test_is_found() -> None:
    overload = ROOT / "server/tests/overload.rs"
    assert is_test(overload, "a_full_queue_is_a_503_at_once")
    assert is_test(ROOT / "server/tests/s3.rs", "ten_thousand_polls_leak_nothing")
    assert is_test(ROOT / "server/src/batch/tests.rs", "a_row_that_fails_or_panics_fails_alone")
    assert not is_test(overload, "row")
    assert not is_test(overload, "a_full_queue")
    assert not is_test(ROOT / "server/tests/nothing.rs", "row")
    assert not is_test(Path(__file__), "is_test")
