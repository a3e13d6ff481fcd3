"""Backlog's notation becomes Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.sources.backlog.notation import to_markdown


@pytest.mark.parametrize(
    ("notation", "markdown"),
    [
        ("*銀行振込\uff1a30件", "# 銀行振込\uff1a30件"),
        ("* 見出し\n** 小見出し\n***詳細", "# 見出し\n## 小見出し\n### 詳細"),
        ("-項目\n--　子\n- 次", "- 項目\n   - 子\n- 次"),
        ("+一\n++ 二", "1. 一\n   1. 二"),
        ("''太字''と'''斜体'''と%%打消%%", "**太字**と*斜体*と~~打消~~"),
        ("[[Backlog>https://backlog.com/a]]", "[Backlog](https://backlog.com/a)"),
        (
            "[[Top:https://a.example/b]] [[OPS-12]] [[Home/手順]]",
            "[Top](https://a.example/b) OPS-12 Home/手順",
        ),
        ("[[https://a.example/b]]", "https://a.example/b"),
        ("|名前|状態|h\n|web|''止''|", "| 名前 | 状態 |\n| --- | --- |\n| web | **止** |"),
        ("|~a|~b|\n|1|2|\n\n|3|", "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n| 3 |"),
        ("{code:java}\n*x = -1;\n{/code}\n*見出し", "```java\n*x = -1;\n```\n# 見出し"),
        ("試す {code}a{/code} と", "試す \n```\na\n```\n と"),
        ("{code}\n終わらない", "```\n終わらない\n```"),
        ("{code}\n```\n{/code}", "````\n```\n````"),
        ("{quote}\n引用\n二行\n{/quote}\n返事", "> 引用\n> 二行\n返事"),
        ("> 引用", "> 引用"),
        ("一行&br;二行", "一行\n二行"),
        ("&color(red){警告}、&color(#ff0000, blue) { &color(red){中} }", "警告、 中 "),
        (
            "#contents\n#image(図.png) #attach(log.txt:123) #thumbnail(a.jpg)",
            "[file: 図.png] [file: log.txt] [file: a.jpg]",
        ),
        ("-----\n2 * 3 ** 4\n--", "-----\n2 * 3 ** 4\n--"),
        ("日本語だけ。全角　空白\uff5eも①ﾊﾝｶｸも", "日本語だけ。全角　空白\uff5eも①ﾊﾝｶｸも"),
    ],
)
def test_notation_becomes_markdown(notation: str, markdown: str) -> None:
    assert to_markdown(notation) == markdown


@given(st.text(alphabet="*-+'%|~{}[]()>:#&;`\n　 ab日code/quotecolorbr", max_size=80))
def test_words_of_any_text_are_kept(text: str) -> None:
    """Whatever is written, letters that are no marks stay."""
    assert to_markdown(text).count("日") == text.count("日")
