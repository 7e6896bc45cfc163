"""Write docs/benchmarks.md and its plots anew, from `results/*.json`, without measuring anything.

python -m benchmarks.report
"""

from benchmarks import figures, plots, tables, timing

PAGE = timing.ROOT / "docs" / "benchmarks.md"


def page(text: str, results: dict[str, dict]) -> str:
    """The page with every part, between `<!-- name -->` and `<!-- end of name -->`, written anew."""
    parts = {name: tables.PARTS[name](part) for name, part in results.items()}
    parts["figures"] = tables.table(figures.HEADER, [figure.row() for figure in figures.figures(results)])
    return fill(text, parts, PAGE.name)


def fill(text: str, parts: dict[str, str], page: str) -> str:
    """The text with each of these parts in its place."""
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{page} has no part '{begin}' ... '{end}': write the two comments where it belongs.")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{part}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    results = timing.load()
    PAGE.write_text(page(PAGE.read_text(), results))
    for path in plots.draw(results, PAGE.parent / "img"):
        print(path.relative_to(timing.ROOT))


if __name__ == "__main__":
    main()
