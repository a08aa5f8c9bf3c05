//! The token in a form: the body is read as far as it takes to find it, and handed on whole.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::header;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::FIELD;
use crate::web::visit::Framework;

/// How much of a form is looked at.
const MAX_LOOKED_AT: usize = 64 * 1024;

pin_project! {
    /// The body of a request that [`CsrfLayer`](super::CsrfLayer) let pass: as it came.
    pub struct CsrfBody<B: Body> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B: Body> {
        Unread { #[pin] body: B },
        Read { data: Bytes, then: Option<Result<Frame<Bytes>, B::Error>>, rest: Pin<Box<B>> },
    }
}

/// Whether the body is a form whose fields can be read as they come.
pub(super) fn is_form<F: Framework>(request: &F::Request) -> bool {
    let content_type = F::header_values(request, &header::CONTENT_TYPE).next().unwrap_or_default();
    let media_type = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

impl<B: Body<Data = Bytes>> CsrfBody<B> {
    pub(super) fn unread(body: B) -> Self {
        Self { kind: Kind::Unread { body } }
    }

    /// The token in a form, if it is in the part that is looked at.
    pub(super) async fn find_token(body: B) -> (Option<Vec<u8>>, Self) {
        let mut rest = Box::pin(body);
        let mut form = Form::default();
        let (token, then) = loop {
            let frame = poll_fn(|context| rest.as_mut().poll_frame(context)).await;
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let token = form.push(&data);
                    if token.is_some() || form.text.len() >= MAX_LOOKED_AT {
                        break (token, None);
                    }
                }
                None => break (form.end(), None),
                Some(Ok(Err(trailers))) => break (form.end(), Some(Ok(trailers))),
                Some(Err(error)) => break (None, Some(Err(error))),
            }
        };
        (token, Self { kind: Kind::Read { data: form.text.freeze(), then, rest } })
    }
}

/// What was read of a form.
#[derive(Default)]
struct Form {
    text: BytesMut,
    /// Where the field begins whose end was not read yet.
    field: usize,
}

impl Form {
    /// The token, once its field is complete.
    fn push(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let read = self.text.len();
        self.text.extend_from_slice(data);
        for end in memchr::memchr_iter(b'&', data) {
            let end = read + end;
            if end > MAX_LOOKED_AT {
                break;
            }
            if let Some(token) = token_of(&self.text[self.field..end]) {
                return Some(token.to_vec());
            }
            self.field = end + 1;
        }
        None
    }

    /// The token, if it is the last field.
    fn end(&self) -> Option<Vec<u8>> {
        token_of(&self.text[self.field..]).map(<[u8]>::to_vec)
    }
}

fn token_of(field: &[u8]) -> Option<&[u8]> {
    field.strip_prefix(FIELD.as_bytes())?.strip_prefix(b"=")
}

impl<B: Body<Data = Bytes>> Body for CsrfBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.project().kind.project() {
            KindProjection::Unread { body } => body.poll_frame(context),
            KindProjection::Read { data, then, rest } => {
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))));
                }
                match then.take() {
                    Some(frame) => Poll::Ready(Some(frame)),
                    None => rest.as_mut().poll_frame(context),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Unread { body } => body.is_end_stream(),
            Kind::Read { data, then, rest } => data.is_empty() && then.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (waiting, rest) = match &self.kind {
            Kind::Unread { body } => return body.size_hint(),
            Kind::Read { data, rest, .. } => (data.len() as u64, rest.size_hint()),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(waiting));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(waiting)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B: Body> fmt::Debug for CsrfBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsrfBody").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_found_as_soon_as_it_is_complete() {
        for (text, found) in [
            ("", None),
            ("csrf_token=abc", Some("abc")),
            ("csrf_token=abc&", Some("abc")),
            ("a=1&csrf_token=abc&b=2", Some("abc")),
            ("a=csrf_token=abc", None),
            ("xcsrf_token=abc", None),
            ("csrf_token", None),
            ("csrf_token=", Some("")),
            ("&&csrf_token=abc&csrf_token=def", Some("abc")),
        ] {
            for step in 1..=text.len().max(1) {
                let mut form = Form::default();
                let early = text.as_bytes().chunks(step).find_map(|part| form.push(part));
                let found_now = early.or_else(|| form.end());
                assert_eq!(found_now.as_deref(), found.map(str::as_bytes), "{text} by {step}");
            }
        }
    }

    #[test]
    fn no_more_of_a_form_is_looked_at_than_the_limit() {
        let mut form = Form::default();
        let late = format!("a={}&csrf_token=abc&", "x".repeat(MAX_LOOKED_AT));
        assert_eq!(form.push(late.as_bytes()), None);
    }
}
