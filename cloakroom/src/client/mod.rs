//! Who a request comes from, as far as it tells: the address behind proxies, the device, the country.

#[cfg(feature = "geoip")]
mod country;
mod device;
mod ip;
mod proxies;

#[cfg(feature = "geoip")]
pub(crate) use country::Countries;
pub use device::{Device, DeviceKind};
pub(crate) use ip::canonical;
pub use ip::{ClientIp, ParseClientIpError};
pub use proxies::TrustedProxies;
