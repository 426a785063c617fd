"""The web demo at `/`: one page of Gradio, which asks nothing of any other machine."""

import asyncio
import concurrent.futures
from pathlib import Path

import fastapi
import gradio
from starlette.routing import Mount

from alpaca_jax.serving.demo_gate import Gate
from alpaca_jax.serving.demo_page import Page
from alpaca_jax.serving.demo_visits import Visits
from alpaca_jax.serving.feedback import Feedback
from alpaca_jax.serving.service import Service

_FOLDER = Path(__file__).parent

# Gradio's own page takes its background from the visitor's system alone; demo.css cannot name what is around the page.
_HEAD = "<style>body { background: var(--body-background-fill, var(--bg)) !important; }</style>"

# Light or dark as the visitor's system is, until the button in the page's head is pressed.
_RECALL_COLOURS = """() => {
    const kept = localStorage.getItem("alpaca_jax_colours");
    if (kept) document.body.classList.toggle("dark", kept === "dark");
}"""


def mount_demo(app: fastapi.FastAPI, service: Service, feedback: str | Path) -> None:
    """Puts the demo at `/` of an app, below all that the app itself answers; it must be the last that is added.

    `app.state.end_pages` is then a function for the moment when the server begins to end: open pages keep a connection
    each, for which it would wait.

    Args:
      app: the server's app.
      service: what answers; the page shows one column for each of its models.
      feedback: the file for flags and votes, made where there is none.

    Raises:
      UserError: the file of flags and votes cannot be written or is something else.
    """
    store = Feedback(feedback)

    async def mount() -> None:
        gradio.mount_gradio_app(
            app,
            Page(Visits(service), store).blocks,
            path="/",
            css_paths=_FOLDER / "demo.css",
            head=_HEAD,
            js=_RECALL_COLOURS,
            theme=_theme(),
            favicon_path=str(_FOLDER / "demo.svg"),
            footer_links=[],
            run_history=False,
            max_file_size=1,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
        )

    # Gradio, where it finds no running event loop, makes one that it never closes; so it is given one for the while, in
    # a thread, since the caller may itself stand in a loop.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, mount()).result()
    mounted = app.router.routes[-1]
    assert isinstance(mounted, Mount)
    assert isinstance(mounted.app, gradio.routes.App)
    app.state.end_pages = mounted.app.stop_event.set
    mounted.app = Gate(mounted.app)


def _theme() -> gradio.themes.Base:
    """Gradio's plain theme in the colours of the Andes: earth, wool and sky."""
    theme = gradio.themes.Base(
        primary_hue=gradio.themes.colors.teal,
        secondary_hue=gradio.themes.colors.teal,
        neutral_hue=gradio.themes.colors.stone,
        radius_size=gradio.themes.sizes.radius_lg,
        # The fonts of the visitor's system, which demo.css names: others would have to be fetched.
        font=[gradio.themes.Font("sans-serif")],
        font_mono=[gradio.themes.Font("monospace")],
    )
    return theme.set(
        body_background_fill="#faf8f5",
        body_background_fill_dark="#171513",
        block_background_fill="#ffffff",
        block_background_fill_dark="#211e1b",
        block_label_text_size="*text_sm",
        block_title_text_weight="600",
        border_color_primary="#e2dcd3",
        border_color_primary_dark="#3d3832",
        input_background_fill="#faf8f5",
        input_background_fill_dark="#191715",
        input_border_color="#e2dcd3",
        input_border_color_dark="#3d3832",
        input_border_width="1px",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="#ffffff",
        color_accent="*primary_700",
        checkbox_label_background_fill="#faf8f5",
        checkbox_label_background_fill_dark="#191715",
        checkbox_label_background_fill_hover="*primary_50",
        checkbox_label_background_fill_hover_dark="#2b2723",
        checkbox_label_background_fill_selected="*primary_100",
        checkbox_label_background_fill_selected_dark="*primary_900",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )
