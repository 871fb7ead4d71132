//! Early copies: what is late by the measure of earlier round trips is sent once more to the same server, before anybody else is
//! asked anything.

use super::{Repeat, Running};
use crate::client::pace::Kind;
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_runtime::{Instant, now};

/// What is to come of a try's copies.
#[derive(Clone, Copy)]
pub(super) struct Copies {
    to: SocketAddrV4,
    /// How long to wait for the next one; before the first, as long as round trips say by then.
    patience: Option<Duration>,
    /// When the last one, or the try, was sent.
    since: Instant,
    /// When to look again.
    pub(super) at: Instant,
}

impl Running<'_> {
    /// A try has been sent to `to`. Where nothing else is on the way, a copy will follow as soon as round trips say that its
    /// answer should be there. A request of several packets, of which only the first is out, keeps the pace of probes.
    pub(super) fn prepare_copies(&mut self, to: SocketAddrV4) {
        let Some(kind) = self.kind().filter(|_| self.tries.len() == 1) else { return };
        let patience = self.shared.pace.borrow().patience(to, kind);
        self.copies = patience.map(|wait| Copies { to, patience: None, since: now(), at: now() + wait });
    }

    /// Sends a copy of the last try where that is due and the client's budget has room for it. Whatever comes of it, probes and
    /// later tries keep their pace.
    pub(super) fn copy(&mut self) {
        let Some(copies) = self.copies.filter(|copies| now() >= copies.at) else { return };
        self.copies = None;
        let Some(kind) = self.kind() else { return };
        let pace = self.shared.pace.borrow();
        // Answers may have become slower since: other calls wait, too.
        let Some(wait) = copies.patience.or_else(|| pace.patience(copies.to, kind)) else { return };
        if now() < copies.since + wait {
            self.copies = Some(Copies { at: copies.since + wait, ..copies });
            return;
        }
        if !pace.affords_copy() || !self.tries.asks(copies.to) || self.tries.are_being_answered(wait) {
            return;
        }
        self.sent_once = false;
        drop(pace);
        let echo = self.write_block();
        let parts = [&self.block[..], self.call.body];
        if self.tries.send(copies.to, self.message, &self.segments, parts, Some(echo)).is_err() {
            // No room, for now: others need it more.
            return;
        }
        self.shared.pace.borrow_mut().sent_copy(copies.to, kind);
        let copies = Copies { patience: Some(2 * wait), since: now(), at: now() + 2 * wait, ..copies };
        self.copies = Some(copies).filter(|copies| copies.at < self.next_at);
    }

    /// The server that was asked has answered: how long that took counts, unless two copies were sent and nobody knows which one
    /// was answered.
    pub(super) fn time_answer(&self, asked: Option<SocketAddrV4>) {
        if let (Some(asked), Some(kind), true) = (asked, self.kind(), self.sent_once) {
            self.shared.pace.borrow_mut().answered(asked, kind, now() - self.sent_at);
        }
    }

    /// Whose round trips this call's is like; `None` for what gets no copies.
    fn kind(&self) -> Option<Kind> {
        match self.repeat {
            _ if self.segments.packets() > 1 => None,
            Repeat::Recognised => Some(Kind::Write),
            Repeat::Anywhere => Some(Kind::Read),
            Repeat::Never => None,
        }
    }
}
