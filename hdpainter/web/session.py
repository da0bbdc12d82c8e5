"""What the server knows of one browser tab, and what the tab shows of its orders."""

import html
import secrets
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path
from typing import Any

from hdpainter.web.engine import Engine, Order
from hdpainter.web.messages import told
from hdpainter.web.photos import Photo
from hdpainter.web.recipes import Recipe
from hdpainter.web.work import Draft, Finished
from ldm.util import UserError

SESSIONS = 200  # tabs remembered; older ones have to load their photo again
KEPT = 24  # drafts that are shown
EARLIER = 5  # photos to go back to


@dataclass
class Session:
    """State of a tab.

    key: gradio's, of the tab as it is now. client: the login or address that it belongs to. token: by which a tab
    takes it up again after a reload. orders: those since the tab last had nothing to do.

    Of a photo: painted: the mask's PNG as the browser last sent it. groups: the drafts of each order, the newest
    first. picked: the draft that the slider shows. finished, figures: by the draft's file. offer: the settings
    that came with the photo. earlier: the same of photos before.
    """

    key: str
    client: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    photo: Photo | None = None
    loaded_mask: Path | None = None
    painted: str = ""
    groups: list[list[Draft]] = field(default_factory=list)
    picked: Draft | None = None
    finished: dict[Path, Finished] = field(default_factory=dict)
    figures: dict[Path, list[tuple[Path, str]]] = field(default_factory=dict)
    offer: Recipe | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    error: str = ""

    @property
    def drafts(self) -> list[Draft]:
        """In the order in which they are shown."""
        return [draft for group in self.groups for draft in group][:KEPT]

    @property
    def active(self) -> list[Order]:
        return [order for order in self.orders if not order.finished]

    @property
    def finishing(self) -> bool:
        """Whether the picked draft is being finished."""
        return self.picked is not None and any(order.about is self.picked for order in self.active)

    @property
    def shown(self) -> tuple[Any, ...]:
        """Another value whenever the pictures on the page are to be others."""
        done = self.picked and self.finished.get(self.picked.low_res)
        figures = self.picked and self.figures.get(self.picked.low_res)
        return (
            id(self.photo),
            tuple(map(id, self.drafts)),
            id(self.picked),
            id(done),
            id(figures),
            self.finishing,
        )

    def open(self, photo: Photo) -> None:
        """A photo takes the place of the one before, which can be gone back to."""
        if self.photo is not None:
            self.earlier = [*self.earlier, {name: getattr(self, name) for name in OF_PHOTO}][-EARLIER:]
        fresh = Session(self.key)
        vars(self).update({name: getattr(fresh, name) for name in (*OF_PHOTO, "orders", "error")})
        self.photo = photo

    def need_photo(self) -> Photo:
        """The photo. Raises UserError where there is none, or none any more."""
        if self.photo is None:
            raise UserError("there is no photo yet: choose one")
        self.photo.check()
        return self.photo

    def need_draft(self) -> Draft:
        """The picked draft. Raises UserError where there is none."""
        if self.picked is None:
            raise UserError("there is no draft yet: make some and pick one")
        return self.picked

    def go_back(self) -> None:
        """The photo before takes the place of the one that is open."""
        if self.earlier:
            vars(self).update(self.earlier.pop(), orders=[], error="")

    def add(self, order: Order) -> None:
        """An order was put into the queue."""
        self.error = ""
        self.orders = [*self.active, order]

    def remove(self, draft: Draft) -> None:
        """A draft is not wanted any more; the one that takes its place is picked."""
        place = self.drafts.index(draft) if draft in self.drafts else 0
        for group in self.groups:
            if draft in group:
                group.remove(draft)
        self.groups = [group for group in self.groups if group or self.active]
        drafts = self.drafts
        self.picked = drafts[min(place, len(drafts) - 1)] if drafts else None


OF_PHOTO = ("photo", "loaded_mask", "painted", "groups", "picked", "finished", "figures", "offer")


class Sessions:
    """The sessions by gradio's key of the tab, which is only looked up, never part of a path.

    A tab is remembered once it has a photo. When there are too many, the oldest goes of the client who has the
    most: who invents keys loses tabs of their own.
    """

    def __init__(self, most: int = SESSIONS) -> None:
        self._most = most
        self._by_key: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: str, client: str) -> Session:
        """The session of a tab; a new one, not remembered, where there is none of this key and client."""
        with self._lock:
            session = self._by_key.get(key)
            if session is None or session.client != client:
                return Session(key, client)
            self._by_key.move_to_end(key)
            return session

    def remember(self, session: Session) -> None:
        """It has a photo. It takes the place of another of its key."""
        with self._lock:
            self._by_key[session.key] = session
            self._by_key.move_to_end(session.key)
            if len(self._by_key) > self._most:
                clients = Counter(each.client for each in self._by_key.values())
                busiest = max(clients.values())
                oldest = next(key for key, each in self._by_key.items() if clients[each.client] == busiest)
                del self._by_key[oldest]

    def resume(self, token: str, key: str, client: str) -> Session | None:
        """The session whose token the tab has kept over a reload, from now on by its new key."""
        with self._lock:
            session = next(
                (each for each in self._by_key.values() if compare_digest(each.token, token)), None
            )
            if session is None:
                return None
            self._by_key.pop(session.key, None)
            session.key, session.client = key, client
            self._by_key[key] = session
            return session

    def all(self) -> list[Session]:
        """Those that are remembered."""
        with self._lock:
            return list(self._by_key.values())


def status(session: Session, engine: Engine) -> str:
    """The panel that says how far things are, as HTML."""
    lines = [_alert(session.error)] if session.error else []
    lines += [_alert(order.message) for order in session.orders if order.state == "failed"]
    active = session.active
    if active:
        first = next((order for order in active if order.state == "running"), active[0])
        lines.append(_progress(first, engine.ahead(first)))
        if len(active) > 1:
            names = ", ".join(html.escape(order.title) for order in active if order is not first)
            lines.append(f"<p>In the queue after it: {names}</p>")
    elif session.orders and session.orders[-1].state == "cancelled":
        lines.append("<p>Cancelled.</p>")
    elif session.orders and session.orders[-1].state == "done":
        last = session.orders[-1]
        lines.append(f"<p>{html.escape(last.title)}: done in {last.took:.1f} s{html.escape(last.remark)}</p>")
    elif not lines:
        hint = (
            "Paint over what to replace and press <b>Make drafts</b>." if session.photo else "Choose a photo."
        )
        lines.append(f"<p>{hint}</p>")
    live = "off" if active else "polite"  # nobody wants every step read out
    return f'<div class="hdp-status" role="status" aria-live="{live}">{"".join(lines)}</div>'


def _alert(message: str) -> str:
    message = told(message)
    return f'<p class="hdp-error" role="alert">{html.escape(message[:1].upper() + message[1:])}</p>'


def _progress(order: Order, ahead: int) -> str:
    if order.state == "waiting" and not ahead:
        return f"<p>{html.escape(order.title)}: starting</p>{_bar(None)}"
    if order.state == "waiting":
        come = "1 job comes" if ahead == 1 else f"{ahead} jobs come"
        return f"<p>{html.escape(order.title)}: in the queue, {come} first</p>{_bar(None)}"
    step, steps = order.steps
    left = order.seconds_left
    told = f"step {step} of {steps}" if step else ""
    if left is not None:
        told += f", about {duration(left)} left"
    label = html.escape(order.label[:1].upper() + order.label[1:])
    return f'<p><span class="hdp-steps">{told}</span>{label}</p>{_bar(order.fraction or None)}'


def _bar(fraction: float | None) -> str:
    """None: nobody knows how much is done."""
    if fraction is None:
        return '<div class="hdp-bar hdp-busy" role="progressbar" aria-label="Progress"><div></div></div>'
    percent = round(100 * fraction)
    return (
        f'<div class="hdp-bar" role="progressbar" aria-label="Progress" aria-valuenow="{percent}">'
        f'<div style="width: {percent}%"></div></div>'
    )


def duration(seconds: float) -> str:
    """For people: "8 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
