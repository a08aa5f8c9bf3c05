// node console.mjs SCENARIO URL PICTURES: plays one scenario in the console at URL. If it fails, pictures of all pages go to PICTURES.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const modules = process.env.CLOAKROOM_TEST_PLAYWRIGHT;
const { chromium } = createRequire(import.meta.url)(`${modules}/playwright-core`);
const axe = readFileSync(`${modules}/axe-core/axe.min.js`, 'utf8');
const [scenario, url, pictures] = process.argv.slice(2);
const { READ_KEY, WRITE_KEY, ADMIN_KEY } = process.env;
const COOKIE = '__Host-cloakroom-console';
const PHONE = 'Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Safari/604.1';
const DESK = 'Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0';

const scenarios = {
  async an_operator_finds_a_session_looks_at_it_and_ends_it(browsers) {
    const { session } = await start({ user: 'anna', full_name: 'Anna Berg', data: { cart: ['coat'], address: 'Main Street 1' }, client: { ip: '203.0.113.7', user_agent: PHONE } });
    await start({ user: 'ben' });
    const { page } = await browsers.add();
    await page.goto('/');
    assert.equal(path(page), '/console/sign-in?next=/console');
    await fillIn(page, 'not-a-key');
    assert.match(await page.getByRole('alert').innerText(), /does not take that key/);
    await fillIn(page, ADMIN_KEY);
    assert.equal(path(page), '/console');
    await click(page.getByRole('link', { name: 'Sessions', exact: true }));
    assert.equal(await page.getByRole('row').count(), 4, "the head, Anna's, Ben's and the console's own");
    await page.getByLabel('User').fill('anna');
    await click(page.getByRole('button', { name: 'Filter' }));
    assert.equal(await page.getByRole('row').count(), 2);
    assert.match(await page.getByRole('row').nth(1).innerText(), /anna\s+Anna Berg.*Safari on iPhone.*203\.0\.113\.7/s);
    await click(page.getByRole('link', { name: session.id }));
    assert.equal(path(page), `/console/sessions/${session.id}`);
    assert.ok(!(await page.content()).includes('Main Street'));
    await click(page.getByRole('link', { name: 'Show the value of address' }));
    assert.match(await page.getByRole('main').innerText(), /"Main Street 1"/);
    assert.ok(!(await page.content()).includes('coat'));
    await page.getByLabel('Note for the audit log').fill('lost phone');
    await click(page.getByRole('button', { name: 'End this session' }));
    assert.equal(await page.getByRole('status').innerText(), 'The session ended.');
    assert.match(await page.getByRole('main').innerText(), /Ended.*Revoked by an administrator.*key:root.*lost phone/s);
    assert.equal((await api('GET', `/v1/sessions/${session.id}`)).status, 410);
    await page.reload();
    assert.equal(await page.getByRole('status').count(), 0, 'it is said once');
  },

  async what_a_filter_shows_is_what_ends_after_a_look(browsers) {
    const on = async (user, user_agent) => (await start({ user, client: { ip: '203.0.113.7', user_agent } })).session.id;
    const [phones, desk] = [[await on('anna', PHONE), await on('ben', PHONE)], await on('anna', DESK)];
    const { page } = await browsers.signedIn(ADMIN_KEY);
    await page.goto('/console/sessions');
    await click(page.getByRole('row', { name: phones[0] }).getByRole('link', { name: 'Safari on iPhone' }));
    const listed = await page.getByRole('row').count();
    await click(page.getByRole('link', { name: 'End all that match' }));
    assert.match(await page.getByRole('main').innerText(), /End sessions on Safari on iPhone\s+2 sessions would end now/);
    assert.equal(await page.getByRole('row').count(), listed, 'the preview is the list');
    await click(page.getByRole('button', { name: 'End them' }));
    assert.match(path(page), /\/end\?/, 'the box is not ticked');
    await page.getByLabel('Yes, end 2 sessions').check();
    await page.getByLabel('Note for the audit log').fill('stolen bag');
    await click(page.getByRole('button', { name: 'End them' }));
    assert.match(await page.getByRole('status').innerText(), /^2 sessions ended/);
    for (const id of phones) assert.equal((await api('GET', `/v1/sessions/${id}`)).status, 410);
    assert.equal((await api('GET', `/v1/sessions/${desk}`)).status, 200);

    await page.goto('/console/sessions');
    await click(page.getByRole('link', { name: 'End all sessions' }));
    assert.match(await page.getByRole('main').innerText(), /1 session would end now.\s+Your own session in this console stays/);
    await page.getByLabel('Yes, end 1 session').check();
    await click(page.getByRole('button', { name: 'End them' }));
    assert.match(await page.getByRole('status').innerText(), /^1 session ended/);
    assert.equal((await api('GET', `/v1/sessions/${desk}`)).status, 410);
  },

  async a_user_is_limited_disabled_enabled_and_signed_out_everywhere(browsers) {
    await start({ user: 'anna', client: { ip: '203.0.113.7' } });
    await start({ user: 'anna', client: { ip: '203.0.113.8' } });
    const { page } = await browsers.signedIn(ADMIN_KEY);
    await page.goto('/console/users');
    await page.getByRole('textbox', { name: 'User' }).fill('anna');
    await click(page.getByRole('button', { name: 'Open' }));
    assert.equal(path(page), '/console/users/anna');
    assert.match(await page.getByRole('main').innerText(), /no entry of this user/);
    await page.getByLabel('Full name').fill('Anna Berg');
    await page.getByLabel('Sessions at most').fill('2');
    await page.getByLabel('A sign-in beyond that').selectOption('refuse');
    await page.getByLabel('Allowed networks').fill('203.0.113.0/24\n2001:db8::/32');
    await click(page.getByRole('button', { name: 'Save' }));
    assert.equal(await page.getByRole('status').innerText(), 'Saved.');
    const { user } = (await api('GET', '/v1/users/anna')).body;
    assert.deepEqual([user.full_name, user.session_limit, user.when_full, user.allowed_networks], ['Anna Berg', 2, 'refuse', ['203.0.113.0/24', '2001:db8::/32']]);
    assert.equal(await page.getByLabel('Allowed networks').inputValue(), '203.0.113.0/24\n2001:db8::/32');
    await page.getByLabel('Allowed networks').fill('nowhere');
    await click(page.getByRole('button', { name: 'Save' }));
    assert.match(await page.getByRole('main').innerText(), /allowed_networks/);

    await page.goto('/console/users/anna');
    await click(page.getByRole('button', { name: 'Sign out everywhere' }));
    assert.equal(await page.getByRole('status').innerText(), 'Signed out everywhere. 2 sessions ended.');
    await start({ user: 'anna', client: { ip: '203.0.113.7' } });
    await click(page.getByRole('button', { name: 'Disable' }));
    assert.equal((await api('GET', '/v1/users/anna')).body.user.enabled, true, 'the box is not ticked');
    await page.getByLabel('All sessions of this user end').check();
    await click(page.getByRole('button', { name: 'Disable' }));
    assert.equal(await page.getByRole('status').innerText(), 'Disabled. 1 session ended.');
    await click(page.getByRole('button', { name: 'Enable' }));
    assert.equal((await api('GET', '/v1/users/anna')).body.user.enabled, true);
    await click(page.getByRole('link', { name: 'Users', exact: true }).first());
    assert.match(await page.getByRole('row', { name: 'anna' }).innerText(), /Anna Berg.*Enabled.*at most 2.*203\.0\.113\.0\/24/s);
  },

  async the_audit_log_shows_what_comes_and_goes_back_in_time(browsers) {
    for (let n = 0; n < 60; n++) await start({ user: `user-${n}` });
    const { page } = await browsers.signedIn(READ_KEY);
    await page.goto('/console/audit');
    await page.getByText('Live', { exact: true }).waitFor();
    const rows = page.locator('.log tbody tr');
    assert.equal(await rows.count(), 50);
    const { session } = await start({ user: 'anna', client: { ip: '203.0.113.7' } });
    await page.getByRole('row', { name: 'anna' }).waitFor();
    assert.match(await rows.first().innerText(), /signed in.*anna.*203\.0\.113\.7.*key:root/s);
    const impersonated = await impersonate('anna', 'user-1');
    await page.getByText('Impersonated by anna').waitFor();
    await click(page.getByRole('button', { name: 'Pause' }));
    await api('DELETE', `/v1/sessions/${impersonated.id}?reason=revoked_by_admin`);
    await click(page.getByRole('button', { name: 'Go on' }));
    await page.getByRole('row', { name: 'revoked by admin' }).waitFor();

    await click(page.getByRole('link', { name: 'Older' }));
    const older = await rows.allInnerTexts();
    assert.match(older.join(' '), /user-0/);
    assert.equal(await page.getByText('Live', { exact: true }).isVisible().catch(() => false), false);
    await page.goto('/console/audit');
    await page.getByLabel('Event').selectOption('ended');
    await click(page.getByRole('button', { name: 'Filter' }));
    assert.equal(await rows.count(), 1);
    await page.getByLabel('Event').selectOption('');
    await page.getByLabel('User').fill('anna');
    await click(page.getByRole('button', { name: 'Filter' }));
    assert.equal(await page.locator('.log').getByRole('link', { name: session.id }).count(), 1);
    assert.ok((await rows.allInnerTexts()).every((row) => row.includes('anna')));
    await page.goto('/console/audit?until=2026-01-01T00:00');
    assert.match(await page.getByRole('main').innerText(), /No entry matches/);

    await page.goto('/console/audit?user=anna');
    for (const [name, begins] of [['Export JSON Lines', '{"cursor":'], ['Export CSV', 'at,event,session,user,']]) {
      const download = page.waitForEvent('download');
      await click(page.getByRole('link', { name }));
      const text = readFileSync(await (await download).path(), 'utf8');
      assert.ok(text.startsWith(begins), text.slice(0, 80));
      assert.ok(text.includes(session.id) && !text.includes('user-2'), text);
    }
  },

  async the_overview_counts_and_draws(browsers) {
    for (const user of ['anna', 'ben', 'chen']) await start({ user, client: { user_agent: PHONE } });
    const ended = await start({ user: 'dora' });
    await api('DELETE', `/v1/sessions/${ended.session.id}?reason=revoked_by_admin`);
    await impersonate('anna', 'ben');
    const { page } = await browsers.signedIn(READ_KEY);
    await page.goto('/console');
    const figure = async (name) => Number(await page.locator('.figure', { has: page.getByText(name, { exact: true }) }).locator('strong').innerText());
    assert.deepEqual([await figure('Active now'), await figure('Signed in'), await figure('Impersonated')], [6, 5, 1], "with the console's own");
    assert.deepEqual([await figure('Sign-ins'), await figure('Endings')], [5, 1]);
    await page.locator('.chart canvas').waitFor();
    const colours = await page.locator('.chart canvas').evaluate((canvas) => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return new Set(new Uint32Array(data.buffer)).size;
    });
    assert.ok(colours > 10, `something is drawn: ${colours}`);
    await click(page.getByText('As a table'));
    assert.equal(await page.locator('details').getByRole('row').count(), 25);
    assert.match(await page.locator('details').getByRole('row').nth(1).innerText(), /\t?6\t1/);
    assert.match(await page.getByRole('main').innerText(), /Endings by reason\s+revoked by admin\s+1/);
    await click(page.getByRole('link', { name: '30 days' }));
    assert.equal(await page.locator('details tr').count(), 31);
    await click(page.getByRole('link', { name: 'Safari on iPhone' }));
    assert.equal(await page.getByRole('row').count(), 4);
  },

  async every_page_is_for_everyone_in_the_light_in_the_dark_and_on_a_phone(browsers) {
    const pages = await furnished();
    for (const options of [{}, { colorScheme: 'dark' }, { viewport: { width: 390, height: 844 } }]) {
      const browser = await browsers.add(options);
      await browser.page.goto('/console/sign-in');
      await check(browser, '/console/sign-in');
      await fillIn(browser.page, ADMIN_KEY);
      for (const page of pages) {
        await browser.page.goto(page);
        await check(browser, page);
      }
      assert.deepEqual(browser.problems, []);
      assert.deepEqual(browser.elsewhere, [], 'requests to other hosts');
    }

    async function check({ page }, name) {
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${name} is ${wide} pixels too wide for ${page.viewportSize().width}`);
      // A tablet has the width of neither.
      const size = page.viewportSize();
      await page.setViewportSize({ width: 820, height: 1180 });
      // Charts are drawn anew once they notice.
      const fits = page.waitForFunction(() => document.documentElement.scrollWidth <= innerWidth);
      await fits.catch(() => assert.fail(`${name} on a tablet`));
      await page.setViewportSize(size);
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => window.axe.run());
      const found = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes[0].html}`);
      assert.deepEqual(found, [], `${name} ${JSON.stringify(page.viewportSize())}`);
      assert.equal(await page.getByRole('heading', { level: 1 }).count(), 1, name);
    }
  },

  async nothing_that_a_stranger_wrote_runs(browsers) {
    const trick = '"><script>window.hit=1</script><img src=x onerror="window.hit=1"><a href="javascript:window.hit=1">';
    const { session } = await start({ user: trick, full_name: trick, user_type: trick, data: { [trick.slice(0, 120)]: trick }, client: { ip: '203.0.113.7', user_agent: trick, device: trick } });
    await api('PATCH', `/v1/users/${encodeURIComponent(trick)}`, { full_name: trick, user_type: trick });
    const browser = await browsers.signedIn(ADMIN_KEY);
    const { page } = browser;
    const encoded = encodeURIComponent(trick);
    for (const to of ['/console', '/console/sessions', `/console/sessions?user=${encoded}&device=${encoded}`, `/console/sessions/${session.id}`, `/console/sessions/${session.id}?show=${encodeURIComponent(trick.slice(0, 120))}`,
      `/console/sessions/end?user=${encoded}`, '/console/users', `/console/users/${encoded}`, `/console/audit?user=${encoded}`, `/console/sessions?ip=${encoded}`, `/console/${encoded}`]) {
      await page.goto(to);
      assert.equal(await page.evaluate(() => window.hit), undefined, to);
      assert.equal(await page.locator('img, main script:not([src]), [href^="javascript:"], [onerror]').count(), 0, to);
    }
    await page.goto('/console/audit');
    await page.getByText('Live', { exact: true }).waitFor();
    await api('DELETE', `/v1/sessions/${session.id}?reason=revoked_by_admin&note=${encoded}`);
    await page.getByRole('row', { name: 'revoked by admin' }).waitFor();
    assert.equal(await page.evaluate(() => window.hit), undefined);
    assert.equal(await page.locator('.log img, .log script').count(), 0);
    await start({ user: 'anna\u202Eevil' });
    await page.getByText('anna\\u{202e}evil').waitFor();
    assert.deepEqual(browser.elsewhere, []);
  },

  async a_keyboard_is_enough(browsers) {
    const { session } = await start({ user: 'anna' });
    const { page } = await browsers.add();
    await page.goto('/console/sign-in');
    await focus(page, '#key');
    await page.keyboard.type(ADMIN_KEY);
    await page.keyboard.press('Enter');
    await page.waitForURL('**/console');
    await page.keyboard.press('Tab');
    assert.equal(await focused(page), 'Skip to the content');
    await page.keyboard.press('Enter');
    await focus(page, '#main');
    await page.goto(`/console/sessions?user=anna`);
    await tabTo(page, session.id);
    await page.keyboard.press('Enter');
    await page.waitForURL(`**/${session.id}`);
    await tabTo(page, 'End this session');
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(outline, 'solid', 'where the keyboard is can be seen');
    await page.keyboard.press('Enter');
    await page.getByRole('status').waitFor();
    assert.equal((await api('GET', `/v1/sessions/${session.id}`)).status, 410);

    async function tabTo(page, text) {
      for (let n = 0; n < 60; n++) {
        await page.keyboard.press('Tab');
        if (await focused(page) === text) return;
      }
      assert.fail(`no Tab leads to ${text}`);
    }
  },

  async scripts_are_not_needed(browsers) {
    const { session } = await start({ user: 'anna' });
    const { page } = await browsers.add({ javaScriptEnabled: false });
    await page.goto('/');
    await fillIn(page, ADMIN_KEY);
    await click(page.getByText('As a table'));
    assert.ok(await page.locator('details').getByRole('row').count() > 20);
    await page.goto('/console/audit');
    assert.ok(await page.getByRole('row').count() > 1);
    await page.goto('/console/sessions?user=anna');
    await click(page.getByRole('link', { name: session.id }));
    await click(page.getByRole('button', { name: 'End this session' }));
    assert.equal(await page.getByRole('status').innerText(), 'The session ended.');
    await click(page.getByRole('button', { name: 'Sign out' }));
    assert.equal(path(page), '/console/sign-in');
  },

  async f1_another_site_cannot_end_a_session_with_an_operators_browser(browsers) {
    const { session } = await start({ user: 'anna' });
    const { page } = await browsers.signedIn(ADMIN_KEY);
    for (const [action, field] of [[`/console/sessions/${session.id}/end`, 'note'], ['/console/sessions/end', 'sure'], ['/console/users/anna/disable', 'sure'], ['/console/sign-out', 'x']]) {
      await page.goto('about:blank');
      await page.setContent(`<form method="post" action="${url}${action}"><input name="${field}" value="yes"><button>Win a prize</button></form>`);
      const answer = page.waitForResponse(`**${action}`);
      await click(page.getByRole('button'));
      assert.equal((await answer).status(), 403, action);
      assert.match(await page.getByRole('main').innerText(), /did not come from this console/);
    }
    assert.equal((await api('GET', `/v1/sessions/${session.id}`)).status, 200);
    await page.goto('/console/sessions');
    assert.equal(path(page), '/console/sessions');
  },

  async r1_going_back_after_signing_out_shows_nothing(browsers) {
    await start({ user: 'anna' });
    const [{ page, context }, thief] = [await browsers.signedIn(ADMIN_KEY), await browsers.add()];
    await page.goto('/console/sessions');
    const cookies = await context.cookies();
    await click(page.getByRole('button', { name: 'Sign out' }));
    await page.waitForURL('**/console/sign-in**');
    await page.goBack();
    assert.match(path(page), /^\/console\/sign-in/);
    assert.ok(!(await page.content()).includes('anna'));
    await thief.context.addCookies(cookies);
    await thief.page.goto('/console/sessions');
    assert.match(path(thief.page), /^\/console\/sign-in/);
  },

  async c1_c2_c5_c6_the_consoles_cookie_is_closed_and_leaves_the_applications_alone(browsers) {
    const { page, context } = await browsers.add();
    await context.addCookies([{ name: 'session', value: 'of-the-application', url, httpOnly: true }]);
    await page.goto('/console');
    await fillIn(page, READ_KEY);
    const cookies = await context.cookies();
    const { domain, path: of, expires, httpOnly, secure, sameSite } = cookies.find(({ name }) => name === COOKIE);
    assert.deepEqual({ domain, of, expires, httpOnly, secure, sameSite }, { domain: '127.0.0.1', of: '/', expires: -1, httpOnly: true, secure: true, sameSite: 'Lax' });
    assert.equal(await page.evaluate(() => document.cookie), '');
    assert.equal(cookies.find(({ name }) => name === 'session').value, 'of-the-application');
  },
};

// Sessions and users of every kind, and the pages that show them.
async function furnished() {
  const { session } = await start({ user: 'anna', full_name: 'Anna Berg', user_type: 'staff', data: { cart: ['coat'] }, client: { ip: '203.0.113.7', user_agent: PHONE } });
  await start({ client: { user_agent: DESK } });
  await start({ user: 'x'.repeat(200), full_name: 'y'.repeat(200), client: { device: 'z'.repeat(300), user_agent: 'w'.repeat(400) }, data: { ['k'.repeat(120)]: 'v'.repeat(2000) } });
  const long = (await api('GET', `/v1/sessions?user=${'x'.repeat(200)}`)).body.sessions[0];
  const acting = await impersonate('anna', 'ben');
  const over = await start({ user: 'chen' });
  await api('DELETE', `/v1/sessions/${over.session.id}?reason=revoked_by_admin&note=lost%20phone`);
  await api('PATCH', '/v1/users/chen', { enabled: false, session_limit: 3, allowed_networks: ['203.0.113.0/24'] });
  return ['/console', '/console?period=month', '/console/sessions', '/console/sessions?user=nobody', `/console/sessions/${session.id}?show=cart`, `/console/sessions/${acting.id}`, `/console/sessions/${over.session.id}`,
    `/console/sessions/${long.id}?show=${'k'.repeat(120)}`, '/console/sessions/end', '/console/sessions/end?user=anna', '/console/sessions/nothing', '/console/users', '/console/users/chen', '/console/users/anna', '/console/audit', '/console/audit?event=refused'];
}

class Browsers {
  all = [];

  constructor(browser) {
    this.browser = browser;
  }

  // A browser of its own, as far as cookies and history go.
  async add(options = {}) {
    const context = await this.browser.newContext({ baseURL: url, ...options });
    context.setDefaultTimeout(20_000);
    const page = await context.newPage();
    const [problems, elsewhere] = [[], []];
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('console', (message) => message.type() === 'error' && !/status of 40[34]/.test(message.text()) && problems.push(message.text()));
    page.on('request', (request) => !request.url().startsWith(url) && elsewhere.push(request.url()));
    this.all.push(page);
    return { context, page, problems, elsewhere };
  }

  async signedIn(key, options) {
    const browser = await this.add(options);
    await browser.page.goto('/console/sign-in');
    await fillIn(browser.page, key);
    return browser;
  }
}

async function fillIn(page, key) {
  await page.getByLabel('API key').fill(key);
  await click(page.getByRole('button', { name: 'Sign in' }));
}

// The page this leads to is there as a whole then: what is counted in it, is counted in all of it.
async function click(locator) {
  await locator.click();
  await locator.page().waitForLoadState();
}

// Browsers move the focus with the next frame they draw. On a busy machine that comes after a page has loaded, and what
// is typed before it goes nowhere.
async function focus(page, selector) {
  const there = page.waitForFunction((selector) => document.activeElement.matches(selector), selector);
  await there.catch(() => assert.fail(`${selector} never has the focus`));
}

async function api(method, to, body) {
  const headers = { authorization: `Bearer ${ADMIN_KEY}`, ...(body && { 'content-type': 'application/json' }) };
  const answer = await fetch(url + to, { method, headers, body: body && JSON.stringify(body) });
  return { status: answer.status, body: await answer.json() };
}

async function start(session) {
  const { status, body } = await api('POST', '/v1/sessions', session);
  assert.equal(status, 201, JSON.stringify(body));
  return body;
}

async function impersonate(actor, user) {
  await api('PATCH', `/v1/users/${user}`, {});
  const { token } = await start({ user: actor });
  const { status, body } = await api('POST', '/v1/sessions/impersonate', { token, user, reason: 'ticket 17' });
  assert.equal(status, 201, JSON.stringify(body));
  return body.session;
}

function path(page) {
  return page.url().slice(url.length);
}

function focused(page) {
  return page.evaluate(() => document.activeElement.textContent.trim());
}

// The last way out, should something hang.
setTimeout(() => { console.error('played for too long'); process.exit(1); }, 240_000).unref();

const browser = await chromium.launch({
  executablePath: process.env.CLOAKROOM_TEST_BROWSER,
  // Root cannot be put into Chromium's sandbox.
  chromiumSandbox: process.getuid?.() !== 0,
  args: ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const browsers = new Browsers(browser);
try {
  await scenarios[scenario](browsers);
  console.log(`${scenario}: played`);
} catch (error) {
  for (const [n, page] of browsers.all.entries()) {
    await page.screenshot({ path: `${pictures}/${scenario}-${n}.png`, fullPage: true }).catch(() => {});
    console.error(`at ${page.url()}`);
  }
  throw error;
} finally {
  await browser.close();
}
