//! A small shop: a cart that survives signing in and out, real passwords, a page of your devices, and an administrator
//! who looks around as a customer.
//!
//! `cargo run --example shop`, then open the address it prints. `SHOP_LISTEN` (default `127.0.0.1:3000`; port 0 takes a free
//! one) and `SHOP_STORE` (default `memory:`, forgotten at the end) say otherwise.
//!
//! Every page works without JavaScript. Every form is answered with a redirect, so that reloading repeats nothing.

#![expect(clippy::format_push_string, reason = "pages are easiest to read this way")]

use std::{
    collections::BTreeMap,
    env,
    error::Error as StdError,
    fmt::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use axum::{
    Form, Router,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use cloakroom::{
    Client, Ended, Error, Impersonate, Key, Next, Reason, Session, SessionId, SessionInfo, Sessions, SignIn, SignedIn,
    Timestamp, web::CsrfLayer,
};
use serde::{Deserialize, Serialize};

/// Product → how many.
const CART: Key<BTreeMap<String, u32>> = Key::new("cart");
/// What the next page says once.
const MESSAGE: Key<String> = Key::new("message");
const ATTEMPTS: Key<Attempts> = Key::new("sign_in_attempts");

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    tracing_subscriber::fmt().with_env_filter(env::var("RUST_LOG").unwrap_or_else(|_| "warn".into())).init();
    let sessions = Sessions::open(&env::var("SHOP_STORE").unwrap_or_else(|_| "memory:".into())).await?;
    let layer = sessions
        .layer()
        .sign_in_page("/sign-in")
        .client_ip(|parts| parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip()))
        .on_commit_error(|error| trouble(error).map(Into::into));
    let app = Router::new()
        .route("/", get(shop))
        .route("/cart", get(cart).post(change_cart))
        .route("/checkout", get(checkout).post(order))
        .route("/sign-in", get(sign_in_page).post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/signed-out", get(signed_out))
        .route("/devices", get(devices))
        .route("/devices/sign-out", post(sign_out_device))
        .route("/devices/sign-out-others", post(sign_out_others))
        .route("/customers", get(customers))
        .route("/customers/act", post(act_as_customer))
        .route("/customers/back", post(back_to_oneself))
        .with_state(Arc::new(Users::seeded()?))
        .layer(CsrfLayer::new())
        .layer(layer)
        .layer(DefaultBodyLimit::max(16 * 1024))
        .route("/style.css", get(([(header::CONTENT_TYPE, "text/css")], STYLE)));

    let listen = env::var("SHOP_LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(&listen).await.map_err(|error| format!("{listen}: {error}"))?;
    println!("The shop is open at http://{}", listener.local_addr()?);
    let stop = async { tokio::signal::ctrl_c().await.expect("Ctrl-C can be waited for") };
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).with_graceful_shutdown(stop).await?;
    sessions.shutdown().await;
    Ok(())
}

// The shop and the cart

async fn shop(session: Session) -> Answer {
    let mut tiles = String::new();
    for product in PRODUCTS {
        let add = button("/cart", &[("product", product.id), ("by", "1"), ("next", "/")], "Add to cart");
        let Product { name, icon, .. } = product;
        let price = Euros(product.cents);
        tiles +=
            &format!(r#"<li><svg viewBox="0 0 48 48"><path d="{icon}"/></svg><h2>{name}</h2><p>{price}</p>{add}</li>"#);
    }
    page(&session, "Everything for the cloakroom", &format!(r#"<ul class="tiles">{tiles}</ul>"#))
}

async fn cart(session: Session) -> Answer {
    let Some(lines) = lines(&session, "/cart")? else {
        return page(&session, "Your cart", r#"<p>It is empty. <a href="/">Have a look around.</a></p>"#);
    };
    page(
        &session,
        "Your cart",
        &format!(r#"{lines}<div class="end"><a class="button" href="/checkout">Check out</a></div>"#),
    )
}

#[derive(Deserialize)]
struct CartChange {
    product: String,
    by: i32,
    /// Checked as it is read: `/` where it leads elsewhere.
    next: Next,
}

async fn change_cart(session: Session, Form(change): Form<CartChange>) -> Answer {
    let Some(product) = Product::find(&change.product) else {
        say(&session, "We do not sell that.")?;
        return go("/");
    };
    // Two tabs may do this at the same time: each change is made to what the other left.
    session.modify(CART, move |cart| {
        let mut cart = cart.unwrap_or_default();
        let count = cart.entry(product.id.into()).or_default();
        *count = count.saturating_add_signed(change.by).min(99);
        cart.retain(|_, count| *count > 0);
        cart
    })?;
    if change.by > 0 {
        say(&session, &format!("{} is in your cart.", product.name))?;
    }
    go(change.next.as_str())
}

/// Whoever is not signed in is sent to the sign-in page, and comes back here.
async fn checkout(user: SignedIn) -> Answer {
    let Some(lines) = lines(&user, "/checkout")? else { return go("/cart") };
    let name = user.info().and_then(|info| info.full_name).unwrap_or_else(|| user.user().into());
    let order = button("/checkout", &[], "Place the order");
    page(
        &user,
        "Check out",
        &format!(r#"{lines}<p>We deliver to {}.</p><div class="end">{order}</div>"#, Escaped(&name)),
    )
}

async fn order(session: Session) -> Answer {
    if session.user().is_none() {
        return go("/checkout");
    }
    // However often the button was pressed, one request has the cart, and its message stands.
    match session.take_now(CART).await? {
        Some(cart) if !cart.is_empty() => say(&session, "Thank you! Your order is on its way.")?,
        _ => drop(session.entry(MESSAGE)?.or_insert("There was nothing to order.".into())?),
    }
    go("/")
}

/// The cart as a table; `None` if it is empty.
fn lines(session: &Session, page: &str) -> Result<Option<String>, Trouble> {
    let cart = session.get(CART)?.unwrap_or_default();
    let (mut rows, mut total) = (String::new(), 0);
    for (product, count) in cart.iter().filter_map(|(id, count)| Some((Product::find(id)?, count))) {
        let change = |by, label| button("/cart", &[("product", product.id), ("by", by), ("next", page)], label);
        let (less, more, none) = (change("-1", "−"), change("1", "+"), change("-99", "Remove"));
        let cents = product.cents * count;
        let (name, price) = (product.name, Euros(cents));
        total += cents;
        rows += &format!("<tr><td>{name}<td>{less} <b>{count}</b> {more}<td>{none}<td class=number>{price}</tr>");
    }
    let total = Euros(total);
    let table = format!("<table>{rows}<tr><th colspan=3>Total<th class=number>{total}</tr></table>");
    Ok((!rows.is_empty()).then_some(table))
}

// Signing in and out

#[derive(Deserialize)]
struct Credentials {
    user: String,
    password: String,
    remember: Option<String>,
    next: Next,
}

/// How often this visitor tried to sign in.
#[derive(Serialize, Deserialize)]
struct Attempts {
    count: u32,
    since: Timestamp,
}

impl Attempts {
    const MAX: u32 = 5;
    const WINDOW: Duration = Duration::from_mins(1);
}

/// Where the visitor goes on is in the address, which anyone can write: [`Next`] lets paths of this shop through alone.
async fn sign_in_page(session: Session, next: Next) -> Answer {
    if session.user().is_some() {
        return go(next.as_str());
    }
    let form = format!(
        r#"<form class="card" method="post" action="/sign-in"><input type="hidden" name="next" value="{}">
        <label>Name <input name="user" required autofocus autocomplete="username" maxlength="64"></label>
        <label>Password <input name="password" type="password" required autocomplete="current-password"></label>
        <label class="row"><input name="remember" type="checkbox"> Keep me signed in on this device</label>
        <button>Sign in</button></form>
        <p class="hint">This is a demo: sign in as <b>anna</b>, <b>ben</b> or <b>rita</b>, who runs the shop, password <b>{DEMO_PASSWORD}</b>.</p>"#,
        Escaped(next.as_str())
    );
    page(&session, "Sign in", &form)
}

async fn sign_in(session: Session, State(users): State<Arc<Users>>, Form(form): Form<Credentials>) -> Answer {
    let now = session.sessions().now();
    // Counted before the password is looked at, and stored at once: tries at the same time count one by one. This slows
    // people down; robots drop their cookie, so a real shop also counts by user and address.
    let attempts = session.modify_now(ATTEMPTS, move |attempts| match attempts {
        Some(Attempts { count, since }) if now.since(since) < Attempts::WINDOW => Attempts { count: count + 1, since },
        _ => Attempts { count: 1, since: now },
    });
    let attempts = match attempts.await {
        // The button was pressed twice: the first press replaced this session, but the browser waits for this answer.
        Err(Error::Ended(ended)) if ended.reason.is_replacement() => Attempts { count: 1, since: now },
        attempts => attempts?,
    };
    if attempts.count > Attempts::MAX {
        let wait = Attempts::WINDOW.saturating_sub(now.since(attempts.since)).as_secs() + 1;
        return try_again(
            &session,
            &form.next,
            &format!("These were many tries. Please wait {wait} seconds, then try again."),
        );
    }
    // It would hold up every other request of this thread.
    let check = tokio::task::spawn_blocking(move || users.check(&form.user, &form.password));
    let Some(user) = check.await.expect("checking a password does not panic") else {
        return try_again(&session, &form.next, "Name or password is wrong.");
    };
    session.remove(ATTEMPTS.name());
    // A new session with a new token; the cart moves into it.
    let sign_in = SignIn::new(user.name).full_name(user.full_name).user_type(user.kind);
    let sign_in = sign_in.remember(form.remember.is_some()).methods("pwd");
    session.sign_in(sign_in).await?;
    say(&session, &format!("Welcome, {}.", user.full_name))?;
    go(form.next.as_str())
}

fn try_again(session: &Session, next: &Next, why: &str) -> Answer {
    say(session, why)?;
    go(&format!("/sign-in?{}", next.to_query()))
}

async fn sign_out(session: Session) -> Answer {
    session.sign_out_keeping(&[CART.name()]).await?;
    go("/signed-out")
}

async fn signed_out(session: Session) -> Answer {
    let kept = if session.contains_key(CART.name()) { "We keep your cart for you. " } else { "" };
    page(&session, "You are signed out", &format!(r#"<p>{kept}<a href="/">Back to the shop</a></p>"#))
}

// Your devices

async fn devices(user: SignedIn) -> Answer {
    let now = user.sessions().now();
    let sessions = user.sessions().list(user.user()).await?;
    let mut rows = String::new();
    for SessionInfo { id, client, created_at, last_seen_at, .. } in &sessions {
        let action = if user.id() == Some(*id) {
            r#"<b class="here">This device</b>"#.into()
        } else {
            button("/devices/sign-out", &[("id", &id.to_string())], "Sign out")
        };
        let ip = client.ip.map(|ip| ip.to_string()).unwrap_or_default();
        let (device, agent) = (device(client), client.user_agent.as_deref().unwrap_or_default());
        let (started, seen) = (Ago(now, *created_at), Ago(now, *last_seen_at));
        rows += &format!(
            r#"<tr><td><b title="{}">{device}</b><br><small>{ip}</small><td>{started}<td>{seen}<td>{action}</tr>"#,
            Escaped(agent)
        );
    }
    let others = match sessions.len() {
        0 | 1 => "<p>You are signed in nowhere else.</p>".into(),
        _ => {
            format!(r#"<div class="end">{}</div>"#, button("/devices/sign-out-others", &[], "Sign out everywhere else"))
        }
    };
    let head = "<tr><th>Device<th>Signed in<th>Last seen<th></tr>";
    page(&user, "Your devices", &format!("<table>{head}{rows}</table>{others}"))
}

#[derive(Deserialize)]
struct Device {
    id: String,
}

async fn sign_out_device(session: Session, Form(form): Form<Device>) -> Answer {
    let ended = match form.id.parse::<SessionId>() {
        Ok(id) => session.sign_out_other(id).await?,
        Err(_) => false,
    };
    if session.user().is_some() {
        say(&session, if ended { "That device is signed out." } else { "That device was not signed in." })?;
    }
    go("/devices")
}

async fn sign_out_others(session: Session) -> Answer {
    let ended = session.sign_out_others().await?;
    if session.user().is_some() {
        say(
            &session,
            &format!("Signed out on {} other device{}.", ended.len(), if ended.len() == 1 { "" } else { "s" }),
        )?;
    }
    go("/devices")
}

/// What a person calls it, as far as a browser tells.
fn device(client: &Client) -> String {
    let agent = client.user_agent.as_deref().unwrap_or_default();
    let first =
        |names: &[(&str, &'static str)]| names.iter().find(|(part, _)| agent.contains(part)).map(|(_, name)| *name);
    // Browsers pretend to be their elders, so the youngest name counts.
    let browser = first(&[
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS", "Mac"),
        ("Linux", "Linux"),
    ]);
    let browser = browser.unwrap_or("Unknown browser");
    system.map_or_else(|| browser.to_owned(), |system| format!("{browser} on {system}"))
}

// Looking around as a customer

/// For administrators; not for those who act as somebody else, whatever that person may do.
fn is_administrator(session: &Session) -> bool {
    session.impersonator().is_none()
        && session.info().is_some_and(|info| info.user_type.as_deref() == Some(ADMINISTRATOR))
}

async fn customers(user: SignedIn, State(users): State<Arc<Users>>) -> Answer {
    if !is_administrator(&user) {
        return go("/");
    }
    let mut rows = String::new();
    for User { name, full_name, .. } in users.all.iter().filter(|user| user.kind == CUSTOMER) {
        rows += &format!(
            r#"<tr><td><b>{}</b><td><form method="post" action="/customers/act"><input type="hidden" name="user" value="{name}">
            <input name="reason" required maxlength="200" placeholder="Why? It is kept in the log." aria-label="Reason">
            <button>Act as {name}</button></form></tr>"#,
            Escaped(full_name)
        );
    }
    page(&user, "Customers", &format!("<table>{rows}</table>"))
}

#[derive(Deserialize)]
struct ActAs {
    user: String,
    reason: String,
}

async fn act_as_customer(session: Session, State(users): State<Arc<Users>>, Form(form): Form<ActAs>) -> Answer {
    let customer = users.all.iter().find(|user| user.name == form.user);
    let (true, Some(customer)) = (is_administrator(&session), customer) else { return go("/") };
    let impersonate = Impersonate::new(customer.name, form.reason.trim());
    let impersonate = impersonate.full_name(customer.full_name).user_type(customer.kind).minutes(15);
    match session.impersonate(impersonate).await {
        Ok(()) => go("/"),
        Err(error @ (Error::ImpersonationRefused(_) | Error::Refused(_) | Error::InvalidArgument { .. })) => {
            say(&session, &format!("That was refused: {error}."))?;
            go("/customers")
        }
        Err(error) => Err(error.into()),
    }
}

async fn back_to_oneself(session: Session) -> Answer {
    if session.impersonator().is_none() {
        return go("/");
    }
    session.stop_impersonating().await?;
    say(&session, "You are back in your own account.")?;
    go("/customers")
}

// Messages, pages and errors

type Answer = Result<Response, Trouble>;

/// Has the next page say something, after the reason why the visitor is not signed in any more.
fn say(session: &Session, message: &str) -> Result<(), Error> {
    let why = session.lapsed().as_ref().and_then(why);
    session.set(MESSAGE, &[why, Some(message)].into_iter().flatten().collect::<Vec<_>>().join(" "))
}

/// What to tell a visitor who finds themselves signed out, unless they know.
fn why(ended: &Ended) -> Option<&'static str> {
    ended.user.as_ref()?;
    match ended.reason {
        Reason::SignedOut | Reason::Replaced => None,
        Reason::SignedOutElsewhere => Some("You signed this device out from another one."),
        Reason::IdleTimeout | Reason::AbsoluteTimeout => Some("It has been a while, so we signed you out."),
        other => Some(other.text()),
    }
}

fn page(session: &Session, title: &str, body: &str) -> Answer {
    let mut notes = String::new();
    if let Some(why) = session.lapsed().as_ref().and_then(why) {
        notes += &format!(r#"<p class="note why" role="alert">{}</p>"#, Escaped(why));
    }
    if let Some(message) = session.take(MESSAGE)? {
        notes += &format!(r#"<p class="note" role="status">{}</p>"#, Escaped(&message));
    }
    let name = session.info().and_then(|info| info.full_name.or(info.user));
    if let (Some(actor), Some(name)) = (session.impersonator(), &name) {
        let back = button("/customers/back", &[], "Back to my own account");
        notes += &format!(r#"<p class="note acting">{}, you act as {}. {back}</p>"#, Escaped(&actor), Escaped(name));
    }
    let items: u32 = session.get(CART)?.unwrap_or_default().values().sum();
    let account = match name {
        Some(name) => {
            let sign_out = button("/sign-out", &[], "Sign out");
            let customers = if is_administrator(session) { r#"<a href="/customers">Customers</a>"# } else { "" };
            let name = Escaped(&name);
            format!(r#"{customers}<a href="/devices">Devices</a><span class="who">{name}</span>{sign_out}"#)
        }
        None => r#"<a href="/sign-in">Sign in</a>"#.into(),
    };
    let nav = format!(r#"<nav><a href="/">Shop</a><a href="/cart">Cart <b>{items}</b></a>{account}</nav>"#);
    let body = format!("{notes}<h1>{title}</h1>{body}");
    Ok(document(StatusCode::OK, title, &nav, &body).into_response())
}

fn document(status: StatusCode, title: &str, nav: &str, main: &str) -> Response<String> {
    let html = format!(
        r#"<!doctype html><html lang="en"><meta charset="utf-8"><title>{title} · Hat &amp; Coat</title>
        <meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/style.css">
        <header><a class="brand" href="/">Hat &amp; Coat</a>{nav}</header><main>{main}</main></html>"#
    );
    let policy = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let mut response = Response::new(html);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    // Going back after signing out must not show what was there.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A form that is nothing but its button.
fn button(action: &str, fields: &[(&str, &str)], label: &str) -> String {
    let mut form = format!(r#"<form method="post" action="{action}">"#);
    for (name, value) in fields {
        form += &format!(r#"<input type="hidden" name="{name}" value="{}">"#, Escaped(value));
    }
    form + "<button>" + label + "</button></form>"
}

#[expect(clippy::unnecessary_wraps, reason = "most handlers end with it")]
fn go(path: &str) -> Answer {
    Ok(Redirect::to(path).into_response())
}

/// Keeps text from being read as markup.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            char => f.write_char(char),
        })
    }
}

/// An error of the sessions, as a page.
struct Trouble(Error);

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        trouble(&self.0).into_response()
    }
}

fn trouble(error: &Error) -> Response<String> {
    let (status, text) = match error {
        Error::Ended(ended) => (StatusCode::UNAUTHORIZED, why(ended).unwrap_or("Your session changed meanwhile.")),
        error if error.is_retryable() => (StatusCode::SERVICE_UNAVAILABLE, "Please try again in a moment."),
        error => {
            tracing::error!(error = error as &dyn StdError, "a session could not be used");
            (StatusCode::INTERNAL_SERVER_ERROR, "It is our fault, and we are told of it.")
        }
    };
    let body = format!(r#"<h1>That did not work</h1><p>{text} <a href="/">Back to the shop</a></p>"#);
    document(status, "That did not work", "", &body)
}

// Who may sign in, and what there is to buy

const DEMO_PASSWORD: &str = "umbrella";
const CUSTOMER: &str = "customer";
/// The library lets nobody act as a user of this type, unless told otherwise.
const ADMINISTRATOR: &str = "administrator";

#[derive(Clone)]
struct User {
    name: &'static str,
    full_name: &'static str,
    kind: &'static str,
    password_hash: String,
}

struct Users {
    all: Vec<User>,
    nobody: User,
}

impl Users {
    fn seeded() -> Result<Self, Box<dyn StdError>> {
        let user = |name, full_name, kind, password: &str| {
            let hash = Argon2::default().hash_password(password.as_bytes())?;
            Ok::<_, Box<dyn StdError>>(User { name, full_name, kind, password_hash: hash.to_string() })
        };
        let all = vec![
            user("anna", "Anna Berg", CUSTOMER, DEMO_PASSWORD)?,
            user("ben", "Ben Okafor", CUSTOMER, DEMO_PASSWORD)?,
            user("rita", "Rita Lund", ADMINISTRATOR, DEMO_PASSWORD)?,
        ];
        Ok(Self { all, nobody: user("", "", "", "")? })
    }

    /// Takes some hundredths of a second of one core, on purpose.
    fn check(&self, name: &str, password: &str) -> Option<User> {
        let known = self.all.iter().find(|user| user.name == name);
        // An unknown name costs the same time as a known one: nobody learns which names there are.
        let hash = PasswordHash::new(&known.unwrap_or(&self.nobody).password_hash).ok()?;
        let is_right = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
        known.filter(|_| is_right).cloned()
    }
}

struct Product {
    id: &'static str,
    name: &'static str,
    cents: u32,
    icon: &'static str,
}

impl Product {
    fn find(id: &str) -> Option<&'static Self> {
        PRODUCTS.iter().find(|product| product.id == id)
    }
}

#[rustfmt::skip]
const PRODUCTS: &[Product] = &[
    Product { id: "umbrella", name: "Umbrella", cents: 34_00, icon: "M6 26a18 18 0 0 1 36 0zM24 8V5M24 26v13a4 4 0 0 1-8 0" },
    Product { id: "hat", name: "Bowler hat", cents: 59_00, icon: "M4 34h40M12 34V24a12 12 0 0 1 24 0v10M12 29h24" },
    Product { id: "hanger", name: "Coat hanger", cents: 7_50, icon: "M20 14a4 4 0 1 1 4 4v4L5 34a2 2 0 0 0 1 4h36a2 2 0 0 0 1-4L24 22" },
    Product { id: "cane", name: "Walking cane", cents: 42_00, icon: "M30 43V13a7 7 0 0 0-14 0v4" },
    Product { id: "brush", name: "Clothes brush", cents: 12_90, icon: "M7 18h34v8H7zM11 26v9M18 26v9M24 26v9M30 26v9M37 26v9" },
    Product { id: "scarf", name: "Wool scarf", cents: 25_00, icon: "M15 9h18v8H15zM17 17v25h8V17M25 17l4 20 6-2-4-18M17 37h8" },
];

/// Cents, printed as euros.
struct Euros(u32);

impl fmt::Display for Euros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "€ {}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// How long before the first time the second was.
struct Ago(Timestamp, Timestamp);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.since(self.1).as_secs() / 60 {
            0 => f.write_str("just now"),
            minutes @ 1..60 => write!(f, "{minutes} min ago"),
            minutes @ 60..1440 => write!(f, "{} h ago", minutes / 60),
            minutes => write!(f, "{} d ago", minutes / 1440),
        }
    }
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #2a2320; --soft: #7a6f68; --paper: #faf7f2; --card: #fff; --line: #e6ded3; --accent: #8a2f3c }
@media (prefers-color-scheme: dark) {
  :root { --ink: #efe8e0; --soft: #a99d93; --paper: #1d1917; --card: #28221f; --line: #40372f; --accent: #e58a93 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
header { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: center; padding: .8rem max(1rem, 50vw - 27rem);
  background: var(--card); border-bottom: 1px solid var(--line) }
nav { display: flex; flex-wrap: wrap; gap: .5rem 1.3rem; align-items: center; margin-left: auto }
main { max-width: 56rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1, .brand { font-family: Georgia, serif; font-weight: 600 }
h1 { font-size: 1.8rem; margin: .6rem 0 1.2rem }
a { color: var(--accent); text-underline-offset: .2em }
header a { color: inherit; text-decoration: none }
header a:hover { color: var(--accent) }
.brand { font-size: 1.3rem }
.who, small, .hint { color: var(--soft) }
form { display: inline }
button, .button { font: inherit; color: var(--accent); background: none; border: 1px solid currentcolor; border-radius: .4rem;
  padding: .25rem .8rem; cursor: pointer; text-decoration: none; white-space: nowrap }
button:hover, .button:hover, .card button, .tiles button, .end button, .end .button { background: var(--accent); color: var(--card);
  border-color: var(--accent) }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
.note { background: var(--card); border: 1px solid var(--line); border-left: .3rem solid #5b8c5a; border-radius: .4rem;
  padding: .6rem 1rem }
.why, .acting { border-left-color: var(--accent) }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; list-style: none; padding: 0 }
.tiles li, .card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1.2rem }
.tiles li { text-align: center }
.tiles svg { width: 5rem; fill: none; stroke: var(--accent); stroke-width: 2; stroke-linecap: round; stroke-linejoin: round }
.tiles h2 { font-size: 1.05rem; margin: .4rem 0 0 }
.tiles p { color: var(--soft); margin: 0 0 .8rem }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line) }
td, th { padding: .6rem .7rem; border-bottom: 1px solid var(--line); text-align: left }
.number { text-align: right; font-variant-numeric: tabular-nums }
.here { color: #5b8c5a }
.end { text-align: right; margin-top: 1.2rem }
.card { display: grid; gap: .9rem; max-width: 24rem }
label { display: grid; gap: .2rem }
label.row { display: block }
input:not([type=checkbox]) { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--line);
  border-radius: .4rem; padding: .45rem .6rem; width: 100% }
";
