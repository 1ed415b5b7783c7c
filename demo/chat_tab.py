"""Part of the demo: the tab where one talks, as it is drawn, and what follows on what."""

from typing import Any

import gradio as gr

from mmlm.looking import WAYS

from .chat import EMPTY, Chat, busy, ready
from .kept import STAY
from .panel import safe, waiting
from .session import Session

NAMES = "AB"
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "undocumented"}
_CLICK = "() => document.querySelector('#saved a, #saved button, a#saved, button#saved')?.click()"


class ChatTab:
    """Draws the chat of one model, or of two side by side, and wires it to the handlers in `chat`.

    length: the most tokens that an answer may be asked for.
    system: whether the models' templates have a place for a system text.
    """

    def __init__(self, chat: Chat, length: int, system: bool) -> None:
        self.chat, self.length, self.has_system = chat, length, system
        self.count = len(chat.engines)

    def draw(self) -> None:
        """Draw and wire everything; called inside the tab."""
        self.session = gr.State(Session.of(self.count), time_to_live=STAY)
        self.at = [gr.State(-1) for _ in range(self.count)]
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=320):
                with gr.Row(equal_height=False):
                    self.chats = [self._conversation(i) for i in range(self.count)]
                self.box = self._box()
                self._tools()
                self.gallery = self._gallery()
                self.settings = self._settings()
                self.camera = self._camera()
                if self.count > 1:
                    self._panels()
            if self.count == 1:
                with gr.Column(scale=5, min_width=320):
                    self._panels()
        self._wire()

    def _conversation(self, i: int) -> gr.Chatbot:
        """One model's conversation. Its text is shown as it is: not as Markdown, in which a picture of somewhere else could
        stand, and not as HTML."""
        with gr.Column(min_width=300):
            if self.count > 1:
                name = safe(self.chat.names[i])
                gr.HTML(f'<div class="mm-side"><b class="mm-letter">{NAMES[i]}</b><b>{name}</b></div>')
            return gr.Chatbot(
                elem_id=f"chat-{i}",
                elem_classes="mm-chat",
                show_label=False,
                height="56vh",
                min_height=340,
                editable="user",
                render_markdown=False,
                latex_delimiters=[],
                allow_tags=False,
                feedback_options=None,
                buttons=[],
                placeholder="Attach a picture and ask about it" if self.chat.takes else "Say something",
            )

    def _box(self) -> gr.MultimodalTextbox:
        takes = self.chat.takes
        kinds: list[str] = [*takes] or [".none"]
        return gr.MultimodalTextbox(
            show_label=False,
            elem_id="box",
            elem_classes="mm-box",
            placeholder="Ask, or drop a file here" if takes else "Say something",
            file_count="multiple",
            file_types=sorted(kinds),
            sources=["upload", "microphone"] if "audio" in takes else ["upload"],
            max_plain_text_length=20_000,
            max_lines=8,
            autofocus=True,
        )

    def _tools(self) -> None:
        with gr.Row(elem_classes="mm-tools"):
            self.clear = gr.Button("New conversation", size="sm", elem_id="clear")
            several = [f"Save {NAMES[i]}" for i in range(self.count)] if self.count > 1 else ["Save"]
            self.saves = [gr.Button(text, size="sm", elem_id=f"save-{i}") for i, text in enumerate(several)]
            self.load = gr.UploadButton("Load", size="sm", file_types=[".zip"], elem_id="load")
        self.saved = gr.DownloadButton(elem_id="saved", elem_classes="mm-hidden")

    def _settings(self) -> list[Any]:
        """System prompt, temperature, top-p, length, seed."""
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            system = gr.Textbox(
                label="System prompt",
                lines=2,
                max_lines=6,
                max_length=8000,
                visible=self.has_system,
                placeholder="The model's own, where it has one",
            )
            with gr.Row():
                temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 takes the likeliest token")
                top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="draws from this share of what is likely")
            with gr.Row():
                limit = gr.Slider(
                    1, self.length, min(128, self.length), step=1, label="Length", info="tokens of an answer, at most"
                )
                seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="of what is drawn")
        return [system, temperature, top_p, limit, seed]

    def _camera(self) -> gr.Image | None:
        if "image" not in self.chat.takes:
            return None
        with gr.Accordion("Camera", open=False):
            return gr.Image(
                sources=["webcam"],
                type="filepath",
                image_mode=None,  # as it is: nothing is converted here
                format="png",
                show_label=False,
                buttons=[],
                height=280,
            )

    def _panels(self) -> None:
        """What each model saw, and where it looked."""
        self.panels: list[Any] = []
        self.maps: list[Any] = []
        self.ways: list[Any] = []
        self.looks: list[Any] = []
        with gr.Row(equal_height=False):
            for i in range(self.count):
                title = "What the model saw" if self.count == 1 else f"What {NAMES[i]} saw"
                with gr.Column(min_width=300), gr.Accordion(title, open=True, elem_classes="mm-panel"):
                    self.panels.append(gr.HTML(waiting(EMPTY), elem_id=f"seen-{i}"))
                    with gr.Row(elem_classes="mm-lookbar", visible="image" in self.chat.takes):
                        way = gr.Radio(list(WAYS), value=WAYS[0], show_label=False, container=False, min_width=180)
                        self.ways.append(way)
                        self.looks.append(
                            gr.Button("Where did it look?", size="sm", elem_id=f"look-{i}", min_width=140)
                        )
                    self.maps.append(gr.HTML("", elem_id=f"looked-{i}"))

    def _gallery(self) -> gr.Gallery | None:
        if not self.chat.examples:
            return None
        with gr.Accordion("Try pictures it never trained on", open=True, elem_classes="mm-examples"):
            return gr.Gallery(
                [(str(e.picture), None) for e in self.chat.examples],
                show_label=False,
                container=False,
                columns=6,
                height="auto",
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="examples",
            )

    def _wire(self) -> None:
        """A question goes into the session first, and is answered then; stop ends the answering. What may be refused goes
        through the queue: without it Gradio's page does not show why."""
        c, shown = self.chat, [self.session, *self.chats]
        seen = [*self.panels, *self.maps, *self.at]
        answering: list[Any] = []

        def answered(event: Any, name: str) -> None:
            waits = event.success(busy, None, self.box, queue=False, api_name=False, **_QUIET)
            running = waits.success(
                c.answer, [self.session, *self.settings], shown, concurrency_limit=None, api_name=name, **_QUIET
            )
            answering.append(running)
            running.then(ready, None, self.box, queue=False, api_name=False, **_QUIET)
            running.then(c.last, self.session, seen, api_name=f"seen_{name}", **_QUIET)

        ask = {"fn": c.ask, "inputs": [self.box, self.session], "outputs": [self.box, *shown]}
        answered(self.box.submit(**ask, api_name="ask", **_QUIET), "answer")
        for i, chat in enumerate(self.chats):
            answered(chat.retry(c.retry(i), self.session, shown, api_name=f"retry_{i}", **_QUIET), f"again_{i}")
            answered(chat.edit(c.edit(i), self.session, shown, api_name=False, **_QUIET), f"anew_{i}")
            chat.undo(c.undo, self.session, [self.box, *shown], queue=False, api_name=False, **_QUIET)
            chat.select(c.select(i), self.session, [self.panels[i], self.maps[i], self.at[i]], api_name=False, **_QUIET)
            self.looks[i].click(
                c.look(i), [self.session, self.at[i], self.ways[i]], self.maps[i], api_name=f"look_{i}",
                show_progress="minimal", api_visibility="undocumented",
            )  # fmt: skip
            self.saves[i].click(
                c.save(i), [self.session, self.settings[0]], [self.saved, self.session], api_name=f"save_{i}", **_QUIET
            ).success(None, js=_CLICK)
        self.box.stop(None, None, None, cancels=answering, api_name=False)
        self.clear.click(
            c.clear,
            self.session,
            [*shown, *seen, self.box],
            cancels=answering,
            queue=False,
            api_name=False,
            **_QUIET,
        )
        self.load.upload(
            c.load,
            [self.load, self.session],
            [*shown, *seen, self.settings[0]],
            cancels=answering,
            api_name="load",
            **_QUIET,
        )
        if self.gallery is not None:
            self.gallery.select(c.example, None, self.box, api_name=False, **_QUIET)
        if self.camera is not None:
            self.camera.input(c.photograph, [self.camera, self.box], [self.box, self.camera], api_name=False, **_QUIET)
