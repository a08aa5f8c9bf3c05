//! What a `User-Agent` says of the device, in words for people.

/// What a `User-Agent` says of the device a request comes from.
///
/// Browsers tell less than they once did, and some tell what is not so: an iPad calls itself a Mac unless its pages are made
/// for phones, and every Windows is Windows 10. It is something to show, never to decide about safety by.
///
/// ```
/// use cloakroom::{client::{Device, DeviceKind}};
///
/// let device = Device::of("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0");
/// assert_eq!(device.name.as_deref(), Some("Firefox on Windows"));
/// assert_eq!(device.kind, DeviceKind::Desktop);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// A browser and a system ("Safari on iPhone"), or what else is known of the two.
    pub name: Option<String>,
    /// What kind of device.
    pub kind: DeviceKind,
}

/// What kind of device a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A computer.
    Desktop,
    /// A telephone.
    Mobile,
    /// A tablet.
    Tablet,
    /// No person's device: a crawler, a script.
    Bot,
    /// It does not say.
    Unknown,
}

/// A part of the header, and what it is called where it is found. The first that is found counts: browsers pretend to be
/// their elders, so the youngest come first.
#[derive(Clone, Copy)]
struct Part {
    text: &'static str,
    /// Few parts have no other characters than the header: only those are looked for.
    characters: u128,
    name: &'static str,
}

const fn parts<const N: usize>(names: [(&'static str, &'static str); N]) -> [Part; N] {
    let mut parts = [Part { text: "", characters: 0, name: "" }; N];
    let mut at = 0;
    while at < N {
        let (text, name) = names[at];
        parts[at] = Part { text, characters: characters(text), name };
        at += 1;
    }
    parts
}

/// A bit for each ASCII character of a text.
const fn characters(text: &str) -> u128 {
    let (bytes, mut set, mut at) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        if bytes[at].is_ascii() {
            set |= 1 << bytes[at];
        }
        at += 1;
    }
    set
}

static BROWSERS: [Part; 34] = parts([
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("Edg/", "Edge"),
    ("Edge/", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("OPX/", "Opera"),
    ("Opera", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Vivaldi/", "Vivaldi"),
    ("YaBrowser/", "Yandex Browser"),
    ("DuckDuckGo/", "DuckDuckGo"),
    ("Ddg/", "DuckDuckGo"),
    ("UCBrowser/", "UC Browser"),
    ("MiuiBrowser/", "Mi Browser"),
    ("HuaweiBrowser/", "Huawei Browser"),
    ("Instagram", "Instagram"),
    ("FBAN/", "Facebook"),
    ("FBAV/", "Facebook"),
    ("FB_IAB/", "Facebook"),
    ("MicroMessenger/", "WeChat"),
    ("GSA/", "Google app"),
    ("Electron/", "Electron"),
    ("FxiOS/", "Firefox"),
    ("Focus/", "Firefox Focus"),
    ("SeaMonkey/", "SeaMonkey"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("; wv)", "App"),
    ("Chrome/", "Chrome"),
    ("MSIE ", "Internet Explorer"),
    ("Trident/", "Internet Explorer"),
    // Every browser on an iPhone says Safari, and Safari alone says its own version beside it.
    ("Version/", "Safari"),
]);

static SYSTEMS: [Part; 13] = parts([
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("iPod", "iPod"),
    ("Windows Phone", "Windows Phone"),
    ("Windows", "Windows"),
    ("KAIOS/", "KaiOS"),
    ("OpenHarmony", "HarmonyOS"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "Mac"),
    ("FreeBSD", "FreeBSD"),
    ("OpenBSD", "OpenBSD"),
    ("Linux", "Linux"),
]);

/// What names itself first and is a person's program only now and then.
const SCRIPTS: &[(&str, &str)] = &[
    ("curl/", "curl"),
    ("Wget/", "Wget"),
    ("python-requests/", "python-requests"),
    ("Python-urllib/", "Python-urllib"),
    ("aiohttp/", "aiohttp"),
    ("python-httpx/", "python-httpx"),
    ("Go-http-client/", "Go-http-client"),
    ("Java/", "Java"),
    ("node-fetch/", "node-fetch"),
    ("axios/", "axios"),
    ("PostmanRuntime/", "Postman"),
    ("HTTPie/", "HTTPie"),
    ("libwww-perl/", "libwww-perl"),
];

impl Device {
    /// What this `User-Agent` says. Whatever it is, this takes time in proportion to its length alone.
    pub fn of(user_agent: &str) -> Self {
        if let Some(name) = crawler(user_agent).or_else(|| script(user_agent)) {
            return Self { name: Some(name.to_owned()), kind: DeviceKind::Bot };
        }
        let system = system(user_agent);
        let browser = find(&BROWSERS, user_agent).filter(|browser| *browser != "App" || system.is_none());
        let name = match (browser, system) {
            (Some(browser), Some(system)) => Some(format!("{browser} on {system}")),
            (Some(one), None) | (None, Some(one)) => Some(one.to_owned()),
            (None, None) => first_product(user_agent).map(ToOwned::to_owned),
        };
        Self { name, kind: kind(user_agent, system) }
    }
}

impl DeviceKind {
    /// Whether a person carries it: a telephone or a tablet.
    pub const fn is_mobile(self) -> bool {
        matches!(self, Self::Mobile | Self::Tablet)
    }
}

fn find(parts: &[Part], user_agent: &str) -> Option<&'static str> {
    let there = characters(user_agent);
    let is_there = |part: &&Part| part.characters & !there == 0 && user_agent.contains(part.text);
    parts.iter().find(is_there).map(|part| part.name)
}

fn system(user_agent: &str) -> Option<&'static str> {
    match find(&SYSTEMS, user_agent)? {
        // A Mac has no telephone's browser: it is an iPad that asks for desktop pages.
        "Mac" if ["Mobile/", "CriOS/", "FxiOS/", "EdgiOS/"].iter().any(|part| user_agent.contains(part)) => {
            Some("iPad")
        }
        system => Some(system),
    }
}

fn kind(user_agent: &str, system: Option<&str>) -> DeviceKind {
    match system {
        Some("iPhone" | "iPod" | "Windows Phone" | "KaiOS") => DeviceKind::Mobile,
        Some("iPad") => DeviceKind::Tablet,
        Some("Android" | "HarmonyOS") => {
            let says = |parts: &[&str]| parts.iter().any(|part| user_agent.contains(part));
            // Android's own rule: a browser on a tablet leaves the word out. So do programs that are no browsers.
            if says(&["TV", "BRAVIA", "AFT"]) {
                DeviceKind::Unknown
            } else if says(&["Mobile", "Phone"]) || !user_agent.starts_with("Mozilla/") {
                DeviceKind::Mobile
            } else {
                DeviceKind::Tablet
            }
        }
        Some(_) => DeviceKind::Desktop,
        None => DeviceKind::Unknown,
    }
}

/// A crawler's name for itself.
fn crawler(user_agent: &str) -> Option<&str> {
    const SAYS_SO: [&str; 6] = ["bot", "crawler", "spider", "slurp", "headlesschrome", "externalhit"];
    let says_so = |text: &str| SAYS_SO.iter().any(|part| text.contains(part));
    if !says_so(&user_agent.to_ascii_lowercase()) {
        return None;
    }
    let words = user_agent.split(|char: char| !(char.is_ascii_alphanumeric() || matches!(char, '-' | '_')));
    let mut words = words.filter(|word| word.len() <= 40);
    words.find(|word| {
        let word = word.to_ascii_lowercase();
        // Cubot makes telephones.
        says_so(&word) && !word.starts_with("cubot")
    })
}

fn script(user_agent: &str) -> Option<&'static str> {
    SCRIPTS.iter().find(|(part, _)| user_agent.starts_with(part)).map(|(_, name)| *name)
}

/// The name of a program that is no browser: `Umbrellas/2.1 CFNetwork/…`.
fn first_product(user_agent: &str) -> Option<&str> {
    let name = user_agent.split(['/', ' ', '(']).next()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!name.is_empty() && name.len() <= 40 && name != "Mozilla" && name.bytes().all(plain)).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        DeviceKind::{Bot, Desktop, Mobile, Tablet, Unknown},
        *,
    };

    const DEVICES: &[(&str, &str, DeviceKind)] = &[
        // Browsers of 2024 to 2026.
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0",
            "Firefox on Windows",
            Desktop,
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
            "Chrome on Windows",
            Desktop,
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36 Edg/141.0.0.0",
            "Edge on Windows",
            Desktop,
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36 OPR/122.0.0.0",
            "Opera on Windows",
            Desktop,
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
            "Safari on Mac",
            Desktop,
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
            "Chrome on Mac",
            Desktop,
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:143.0) Gecko/20100101 Firefox/143.0",
            "Firefox on Mac",
            Desktop,
        ),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox on Linux", Desktop),
        ("Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux", Desktop),
        (
            "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0 Safari/537.36",
            "Chrome on ChromeOS",
            Desktop,
        ),
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36 Vivaldi/6.7.3329.31",
            "Vivaldi on Linux",
            Desktop,
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 YaBrowser/24.4.0.0 Safari/537.36",
            "Yandex Browser on Windows",
            Desktop,
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
            "Internet Explorer on Windows",
            Desktop,
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
            "Safari on iPhone",
            Mobile,
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0.7339.101 Mobile/15E148 Safari/604.1",
            "Chrome on iPhone",
            Mobile,
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 15_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/143.0 Mobile/15E148 Safari/605.1.15",
            "Firefox on iPhone",
            Mobile,
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 EdgiOS/140.0.3485.54 Mobile/15E148 Safari/605.1.15",
            "Edge on iPhone",
            Mobile,
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Instagram 334.0.0.28.93 (iPhone14,5; iOS 17_5_1; de_DE)",
            "Instagram on iPhone",
            Mobile,
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
            "iPhone",
            Mobile,
        ),
        (
            "Mozilla/5.0 (iPad; CPU OS 16_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148 Safari/604.1",
            "Safari on iPad",
            Tablet,
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/139 Version/11.1.1 Safari/605.1.15",
            "Chrome on iPad",
            Tablet,
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Mobile Safari/537.36",
            "Chrome on Android",
            Mobile,
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
            "Chrome on Android",
            Tablet,
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
            "Samsung Internet on Android",
            Mobile,
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36 EdgA/140.0.0.0",
            "Edge on Android",
            Mobile,
        ),
        ("Mozilla/5.0 (Android 15; Mobile; rv:143.0) Gecko/143.0 Firefox/143.0", "Firefox on Android", Mobile),
        ("Mozilla/5.0 (Android 14; Tablet; rv:130.0) Gecko/130.0 Firefox/130.0", "Firefox on Android", Tablet),
        (
            "Mozilla/5.0 (Linux; Android 14; Pixel 8 Build/AP2A.240805.005; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/127.0.6533.103 Mobile Safari/537.36",
            "Android",
            Mobile,
        ),
        (
            "Mozilla/5.0 (Linux; Android 12; CUBOT X50) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36",
            "Chrome on Android",
            Mobile,
        ),
        (
            "Mozilla/5.0 (Linux; Android 9; BRAVIA 4K VH2) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/118.0.0.0 Safari/537.36",
            "Chrome on Android",
            Unknown,
        ),
        ("Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/AP1A.240505.005)", "Android", Mobile),
        // What is no browser.
        ("Umbrellas/412 CFNetwork/1568.200.51 Darwin/24.1.0", "Umbrellas", Unknown),
        ("okhttp/4.12.0", "okhttp", Unknown),
        ("curl/8.9.1", "curl", Bot),
        ("python-requests/2.32.3", "python-requests", Bot),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Googlebot", Bot),
        (
            "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.7390.54 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Googlebot",
            Bot,
        ),
        (
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
            "GPTBot",
            Bot,
        ),
        ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", "facebookexternalhit", Bot),
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/131.0.0.0 Safari/537.36",
            "HeadlessChrome",
            Bot,
        ),
    ];

    #[test]
    fn devices_have_names_that_people_know() {
        for (user_agent, name, kind) in DEVICES {
            let expected = Device { name: Some((*name).to_owned()), kind: *kind };
            assert_eq!(Device::of(user_agent), expected, "{user_agent}");
        }
    }

    #[test]
    fn what_says_nothing_has_no_name() {
        for user_agent in ["", " ", "Mozilla/5.0", "<script>", "\u{1F600}/1.0", &"x".repeat(100)] {
            assert_eq!(Device::of(user_agent), Device { name: None, kind: Unknown }, "{user_agent}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_or_gives_a_name_that_is_long_or_markup(
            user_agent in "([A-Za-z]{0,9}|[/ ();.0-9]|Mozilla/5.0|Android|Mobile|bot|Chrome/|\\PC){0,20}"
        ) {
            let name = Device::of(&user_agent).name.unwrap_or_default();
            prop_assert!(name.len() <= 60, "{}", name);
            prop_assert!(!name.contains(['<', '>', '"', '&']), "{}", name);
        }
    }
}
