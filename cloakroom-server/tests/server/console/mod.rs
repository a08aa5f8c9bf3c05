//! The console, by plain requests: who gets in, and what a page offers. What a browser makes of it is in `browser`.

mod access;
mod actions;
mod browser;
mod hostile;
mod visitor;

use visitor::Visitor;
