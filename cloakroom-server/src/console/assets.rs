//! What pages load: style, scripts and pictures, all within the binary.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

struct Asset {
    name: &'static str,
    media_type: &'static str,
    text: &'static str,
}

const ASSETS: &[Asset] = &[
    Asset { name: "chart.js", media_type: "text/javascript", text: include_str!("assets/chart.js") },
    Asset { name: "console.css", media_type: "text/css", text: include_str!("assets/console.css") },
    Asset { name: "console.js", media_type: "text/javascript", text: include_str!("assets/console.js") },
    Asset { name: "icon.svg", media_type: "image/svg+xml", text: include_str!("assets/icon.svg") },
    // Goes wherever the binary goes, as the licence asks.
    Asset { name: "uplot-LICENSE.txt", media_type: "text/plain", text: include_str!("assets/uplot-LICENSE.txt") },
    Asset { name: "uplot.min.css", media_type: "text/css", text: include_str!("assets/uplot.min.css") },
    Asset { name: "uplot.min.js", media_type: "text/javascript", text: include_str!("assets/uplot.min.js") },
];

/// Changes with any of them: browsers keep what they have for as long as it is the same.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for asset in ASSETS {
        hash.update(asset.text);
    }
    URL_SAFE_NO_PAD.encode(&hash.finalize()[..9])
});

/// Where a page finds one.
pub(super) fn path(name: &str) -> String {
    format!("/console/assets/{name}?{}", *VERSION)
}

/// `GET /console/assets/{name}`
pub(super) async fn show(Path(name): Path<String>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut response = asset.text.into_response();
    let headers = response.headers_mut();
    let media_type = HeaderValue::try_from(format!("{}; charset=utf-8", asset.media_type));
    headers.extend(media_type.ok().map(|media_type| (header::CONTENT_TYPE, media_type)));
    let kept = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, kept);
    response
}
