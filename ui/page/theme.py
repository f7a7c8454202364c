"""The page's Gradio theme: system fonts, own colours, nothing loaded from other servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).with_name("static")
SANS = (
    "ui-sans-serif",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Noto Sans",
    "Liberation Sans",
    "Arial",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "WenQuanYi Micro Hei",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")
# Light or dark is decided before the first paint, so that nothing flashes.
_FIRST = (
    "<script>(function(){var t=null;try{t=localStorage.getItem('whyfeed.theme')}catch(e){}"
    "if(t!=='dark'&&t!=='light'){t=matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light'}"
    "document.documentElement.dataset.theme=t})()</script>"
)

_ICON = (
    "<link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Crect width='32' height='32' rx='9' fill='%230b6a5d'/%3E%3Cg fill='none' stroke='white' stroke-width='3' "
    "stroke-linecap='round'%3E%3Cpath d='M11.500 12a4.500 4.500 0 117 3.700c-1.700 1.200-2.500 2-2.500 4'/%3E"
    "%3Cpath d='M16 24.500v.01'/%3E%3C/g%3E%3C/svg%3E\">"
)


def theme() -> Any:
    """A Gradio theme; the page itself is drawn by page.css."""
    import gradio as gr

    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.stone, font=SANS, font_mono=MONO
    ).set(
        body_background_fill="#f6f4ef",
        body_background_fill_dark="#15171b",
        body_text_color="#1e2126",
        body_text_color_dark="#e9e6df",
    )


def head() -> str:
    """The page's head: the script that sets light or dark, and the style sheet."""
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return f"{_FIRST}{_ICON}<style>{style}</style>"
