"""The help pages in other languages: their lists of inputs and outputs, made from the locales.

`python -m tests.packaging.helps` writes them anew, and the English page as the host asks for it by its language.
"""

from pathlib import Path

from .pack import DOCS, LANGUAGES, SCHEMAS, locale, section

HEADINGS = {
    "de": ("Eingänge", "Ausgänge", "Was es nicht tut", "Inaktiv", "Reihenfolge mit anderen Nodes"),
    "es": ("Entradas", "Salidas", "Lo que no hace", "Inactivo", "Orden respecto a otros nodos"),
    "fr": ("Entrées", "Sorties", "Ce qu'il ne fait pas", "Inactif", "Ordre par rapport aux autres nœuds"),
    "ja": ("入力", "出力", "しないこと", "無効になるとき", "他のノードとの順序"),
    "ko": ("입력", "출력", "하지 않는 일", "비활성일 때", "다른 노드와의 순서"),
    "ru": ("Входы", "Выходы", "Чего узел не делает", "Неактивно", "Порядок относительно других узлов"),
    "zh": ("输入", "输出", "它不做什么", "未生效时", "与其他节点的顺序"),
}
"""Of inputs, outputs, what the node does not do, when it is inactive, and its order with other nodes."""


def place(language: str, node: str) -> Path:
    """Where the host looks for a page in a language; else it takes `<node>.md`."""
    return DOCS / node / f"{language}.md"


def lists(language: str, node: str) -> list[str]:
    """The items of the inputs and of the outputs: their names and tooltips, as the node shows them."""
    entry = locale(language, "nodeDefs")[node]
    return [
        "\n".join(f"- **{each['name']}** — {each['tooltip']}" for each in entry.get(kind, {}).values())
        for kind in ("inputs", "outputs")
    ]


def with_lists(page: str, language: str, node: str) -> str:
    """The page with both lists written anew; a node without inputs says so in words of the page."""
    for heading, items in zip(HEADINGS[language], lists(language, node), strict=False):
        if items:
            old = section(page, heading)
            page = page.replace(f"\n## {heading}\n\n{old}\n", f"\n## {heading}\n\n{items}\n")
    return page


def main() -> None:
    for node in SCHEMAS:
        place("en", node).write_text((DOCS / f"{node}.md").read_text(encoding="utf-8"), encoding="utf-8")
        for language in LANGUAGES[1:]:
            path = place(language, node)
            path.write_text(with_lists(path.read_text(encoding="utf-8"), language, node), encoding="utf-8")


if __name__ == "__main__":
    main()
