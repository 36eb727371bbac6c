//! Answers: a file, the page of a single-page application, or words.

use super::root::Root;
use super::site::Site;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_http::services::ServeDir;
use tower_http::services::fs::{DefaultServeDirFallback, ServeFileSystemResponseBody};
use tower_service::Service;

/// The page for what is not there, if there is one.
const MISSING: &str = "/404.html";

type Body = Either<ServeFileSystemResponseBody, Full<Bytes>>;

/// A site, for each request anew.
#[derive(Clone)]
pub(super) struct Answers {
    site: Arc<Site>,
    files: ServeDir<DefaultServeDirFallback, Root>,
}

impl Answers {
    pub(super) fn of(site: Site) -> Self {
        let files = ServeDir::with_backend(".", Root::new(&site.path));
        // Several ranges at once are answered with all of it, as others do.
        Self { site: Arc::new(site), files: files.ignore_multi_range_requests(true) }
    }

    async fn answer(mut self, request: Request<()>) -> Response<Body> {
        if let Some(auth) = &self.site.auth
            && !auth.admits(request.headers())
        {
            return closed();
        }
        let is_first = request.uri().path() == "/" && !self.site.is_usual();
        let target = if is_first { self.site.homepage.clone() } else { single(request.uri()) };
        let answer = self.file(to(&request, target)).await;
        if answer.status() != StatusCode::NOT_FOUND {
            return answer;
        }
        if self.site.spa {
            let page = to(&request, self.site.homepage.clone());
            let answer = self.file(page).await;
            if answer.status() != StatusCode::NOT_FOUND {
                return answer;
            }
        }
        self.missing(&request).await
    }

    async fn file(&mut self, request: Request<()>) -> Response<Body> {
        // It cannot fail.
        let Ok(mut answer) = self.files.call(request).await;
        if let Some(kind) = answer.headers_mut().get_mut(header::CONTENT_TYPE)
            && let Some(named) = with_charset(kind)
        {
            *kind = named;
        }
        answer.map(Either::Left)
    }

    /// The site's own page, whole and unconditionally, or words.
    async fn missing(&mut self, request: &Request<()>) -> Response<Body> {
        let mut page = Request::new(());
        page.method_mut().clone_from(request.method());
        *page.uri_mut() = Uri::from_static(MISSING);
        let mut answer = self.file(page).await;
        if answer.status() != StatusCode::OK {
            return words(StatusCode::NOT_FOUND, "404 Not Found\n");
        }
        *answer.status_mut() = StatusCode::NOT_FOUND;
        for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES] {
            answer.headers_mut().remove(name);
        }
        answer
    }
}

/// The same request for something else.
fn to(request: &Request<()>, target: Uri) -> Request<()> {
    let mut other = request.clone();
    *other.uri_mut() = target;
    other
}

/// With one slash in the beginning: a redirection to `//name/` would lead to another host.
fn single(uri: &Uri) -> Uri {
    let text = uri.path_and_query().map_or("/", |both| both.as_str());
    if !text.starts_with("//") {
        return uri.clone();
    }
    format!("/{}", text.trim_start_matches('/')).parse().unwrap_or_default()
}

/// Text without a character set would be taken for Latin by some.
fn with_charset(kind: &HeaderValue) -> Option<HeaderValue> {
    let text =
        kind.to_str().ok().filter(|text| text.starts_with("text/") && !text.contains(';'))?;
    HeaderValue::try_from(format!("{text}; charset=utf-8")).ok()
}

fn closed() -> Response<Body> {
    let mut answer = words(StatusCode::UNAUTHORIZED, "401 Unauthorized\n");
    let how = HeaderValue::from_static("Basic realm=\"files\", charset=\"UTF-8\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, how);
    answer
}

fn words(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut answer = Response::new(Either::Right(Full::new(Bytes::from_static(text.as_bytes()))));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

impl Service<Request<Incoming>> for Answers {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let answers = self.clone();
        Box::pin(async move { Ok(answers.answer(request.map(drop)).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slash() {
        for (asked, target) in [
            ("/a?b=//c", "/a?b=//c"),
            ("//evil.example/x?y", "/evil.example/x?y"),
            ("///", "/"),
            ("/a//b", "/a//b"),
        ] {
            let uri: Uri = asked.parse().expect(asked);
            assert_eq!(single(&uri).to_string(), target, "{asked}");
        }
    }

    #[test]
    fn character_sets() {
        let kind = |text: &'static str| with_charset(&HeaderValue::from_static(text));
        assert_eq!(kind("text/html").expect("named"), "text/html; charset=utf-8");
        assert_eq!(kind("text/html; charset=latin1"), None);
        assert_eq!(kind("image/png"), None);
    }
}
