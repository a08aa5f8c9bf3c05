//! Applications built on tower-sessions and axum-login, with their sessions in Cloakroom.

mod differential;
mod login;
mod store;
mod world;
