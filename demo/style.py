"""Part of the demo: how the page looks. Everything comes from this machine: fonts are those that a system has."""

from pathlib import Path
from typing import Any

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> Any:
    """A calm theme, light and dark, with no font of Google's."""
    import gradio as gr

    made = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        secondary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=_FONT,
        font_mono=_MONO,
    )
    return made.set(
        body_background_fill="#f7f8fa",
        body_background_fill_dark="#12161b",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#191e24",
        background_fill_secondary="#f3f5f8",
        background_fill_secondary_dark="#1f252c",
        block_background_fill="#ffffff",
        block_background_fill_dark="#191e24",
        body_text_color="#1d242c",
        body_text_color_dark="#e4e8ed",
        body_text_color_subdued="#5d6977",
        body_text_color_subdued_dark="#9aa6b4",
        border_color_primary="#e1e5ea",
        border_color_primary_dark="#2d353e",
        block_border_width="1px",
        block_radius="12px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_title_text_weight="550",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        input_placeholder_color="#6b7785",
        input_placeholder_color_dark="#8a96a5",
        input_border_width="1px",
        checkbox_label_border_width="0px",
        checkbox_border_color_dark="#5d6977",
        input_border_color="#d5dbe2",
        input_border_color_dark="#37414c",
        input_background_fill="#ffffff",
        input_background_fill_dark="#191e24",
        table_odd_background_fill_dark="#1f252c",
        table_even_background_fill_dark="#191e24",
        link_text_color_dark="#9fc2f7",
        button_primary_background_fill="#2f6fd0",
        button_primary_background_fill_hover="#285fb4",
        button_primary_background_fill_dark="#3b7ddd",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#232a32",
        button_secondary_border_color="#d5dbe2",
        button_secondary_border_color_dark="#37414c",
        button_border_width="1px",
        color_accent="#2f6fd0",
        color_accent_soft="#e9f0fb",
        color_accent_soft_dark="#22334c",
        border_color_accent_subdued="#cfdff6",
        border_color_accent_subdued_dark="#2b4466",
    )
