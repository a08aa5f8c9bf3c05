//! What only actix-web does.

use actix_web::{
    Error as ActixError, FromRequest, HttpRequest, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error,
    middleware::{Next, from_fn},
    test::{TestRequest, call_and_read_body, call_service, init_service, try_call_service},
    web,
};
use bytes::Bytes;
use cloakroom::{Found, Session, SignIn, SignedIn, testing::Call, web::CsrfMiddleware};
use futures_util::{future::join_all, stream};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    framework::{Router, get, layer, serve},
    world::{Browser, NAME, spied, world},
};

#[tokio::test]
async fn i13_an_option_that_takes_a_failing_store_for_nobody_is_not_believed() {
    let (world, spy) = spied();
    let browser = world.signed_in("anna").await;
    let app = Router::new()
        .route("/option", get(|user: Option<SignedIn>| async move { format!("{}", user.is_some()) }))
        .route("/result", get(|session: Result<Session, ActixError>| async move { format!("{}", session.is_ok()) }))
        .layer(layer(&world.sessions));
    let mut browser = Browser { app, ..browser };
    for path in ["/option", "/result"] {
        spy.fail_next(Call::Read);
        let reply = browser.get(path).await;
        assert_eq!((reply.status, reply.set_cookie()), (StatusCode::SERVICE_UNAVAILABLE, None), "{path}");
        assert_eq!(browser.text(path).await, "true");
    }
}

/// Signs somebody in, and then fails as a middleware does: outside of any response.
async fn sign_in_and_fail(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, ActixError> {
    let session = Session::extract(request.request()).await?;
    session.sign_in(SignIn::new("anna")).await?;
    session.set("kept", "yes")?;
    drop(next);
    Err(error::ErrorForbidden("not today"))
}

#[tokio::test]
async fn an_inner_middleware_s_error_keeps_a_sign_in_and_its_own_words() {
    let world = world();
    let app = actix_web::App::new()
        .wrap(from_fn(sign_in_and_fail))
        .wrap(world.sessions.middleware())
        .route("/", web::get().to(HttpResponse::Ok));
    let app = init_service(app).await;
    let failed = try_call_service(&app, TestRequest::get().to_request()).await.map(|_| ()).unwrap_err();
    let response = failed.error_response();
    assert_eq!(response.status().as_u16(), 403);
    let set_cookie = response.headers().get("set-cookie").unwrap().to_str().unwrap().to_owned();
    assert!(set_cookie.starts_with(NAME), "{set_cookie}");
    let body = response.into_body().try_into_bytes().unwrap();
    assert_eq!(body, "not today");
    let listed = world.sessions.list("anna").await.unwrap();
    let Found::Live(record) = world.sessions.get(listed[0].id).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.data.get("kept").unwrap().as_str(), "\"yes\"");
}

#[tokio::test]
async fn a_body_that_asks_for_the_session_once_more_has_its_changes_stored() {
    async fn asks_late(request: HttpRequest, _: Session) -> HttpResponse {
        let part = async move {
            Session::extract(&request).await?.set("late", "yes")?;
            Ok::<_, ActixError>(Bytes::from("done"))
        };
        HttpResponse::Ok().streaming(stream::once(part))
    }
    let world = world();
    let browser = world.signed_in("anna").await;
    let app = actix_web::App::new().wrap(world.sessions.middleware()).route("/", web::get().to(asks_late));
    let app = init_service(app).await;
    let cookie = format!("{NAME}={}", browser.cookie.as_deref().unwrap());
    let request = TestRequest::get().insert_header(("cookie", cookie)).to_request();
    assert_eq!(call_and_read_body(&app, request).await, "done");
    let Found::Live(record) = world.sessions.resume(&browser.token()).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.data.get("late").unwrap().as_str(), "\"yes\"");
}

#[tokio::test]
async fn f1_a_scope_can_be_guarded_alone() {
    let world = world();
    let guarded =
        web::scope("/shop").wrap(CsrfMiddleware::new()).route("/order", web::post().to(HttpResponse::Created));
    let app = actix_web::App::new().wrap(world.sessions.middleware()).service(guarded);
    let app = init_service(app.route("/paid", web::post().to(HttpResponse::Accepted))).await;
    let post = async |path, site| {
        let request = TestRequest::post().uri(path).insert_header(("sec-fetch-site", site));
        call_service(&app, request.to_request()).await.status().as_u16()
    };
    assert_eq!(post("/shop/order", "same-origin").await, 201);
    assert_eq!(post("/shop/order", "cross-site").await, 403);
    assert_eq!(post("/paid", "cross-site").await, 202);
}

#[tokio::test]
async fn requests_of_all_workers_are_of_one_session() {
    let world = world();
    let browser = world.signed_in("anna").await;
    let server = serve(world.app.clone()).await;
    let cookie = browser.cookie.unwrap();
    let ask = || async {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request =
            format!("GET /count-now HTTP/1.1\r\nhost: x\r\ncookie: {NAME}={cookie}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply.rsplit("\r\n").next().unwrap().parse::<u32>().unwrap_or_else(|_| panic!("{reply}"))
    };
    let mut counts = join_all((0..40).map(|_| ask())).await;
    counts.sort_unstable();
    assert_eq!(counts, (1..=40).collect::<Vec<_>>());
}
