// node shop.mjs SCENARIO URL PICTURES: plays one scenario in the shop at URL. If it fails, pictures of all pages go to PICTURES.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const { chromium } = createRequire(import.meta.url)(`${process.env.CLOAKROOM_TEST_PLAYWRIGHT}/playwright-core`);
const [scenario, url, pictures] = process.argv.slice(2);
const SIGNED_OUT_ELSEWHERE = 'You signed this device out from another one.';
const COOKIE = '__Host-session';

const scenarios = {
  async i14_the_cart_survives_signing_in(devices) {
    const { page } = await devices.add();
    await page.goto('/');
    await buy(page, 'Umbrella');
    await buy(page, 'Umbrella');
    await buy(page, 'Bowler hat');
    assert.equal(await inCart(page), 3);
    await page.goto('/cart');
    await page.getByRole('link', { name: 'Check out' }).click();
    assert.equal(path(page), '/sign-in?next=/checkout');
    await fillIn(page, 'anna');
    assert.equal(path(page), '/checkout');
    assert.equal(await inCart(page), 3);
    await page.getByRole('button', { name: 'Place the order' }).click();
    assert.equal(await note(page), 'Thank you! Your order is on its way.');
    assert.equal(await inCart(page), 0);
    await page.reload();
    assert.equal(await note(page), null, 'a message is shown once');
  },

  async c1_c2_c5_c6_the_jar_holds_a_host_cookie_that_scripts_cannot_read(devices) {
    for (const origin of [url, url.replace('127.0.0.1', 'localhost')]) {
      const device = await devices.add();
      await signIn(device.page, 'anna', { origin });
      const { name, domain, path, expires, httpOnly, secure, sameSite } = await device.cookie();
      assert.deepEqual(
        { name, domain, path, expires, httpOnly, secure, sameSite },
        { name: COOKIE, domain: new URL(origin).hostname, path: '/', expires: -1, httpOnly: true, secure: true, sameSite: 'Lax' },
      );
      assert.equal(await device.page.evaluate(() => document.cookie), '');
      assert.ok(!(await device.page.content()).includes((await device.cookie()).value));
    }
    const remembered = await devices.add();
    await signIn(remembered.page, 'anna', { remember: true });
    const days = ((await remembered.cookie()).expires - Date.now() / 1000) / 86400;
    assert.ok(days > 29 && days <= 30, `${days} days`);
  },

  async f1_a_form_on_another_site_is_refused(devices) {
    const device = await devices.add();
    await signIn(device.page, 'anna');
    await device.page.goto('about:blank');
    await device.page.setContent(`<form method="post" action="${url}/sign-out"><button>Win a prize</button></form>`);
    const answer = device.page.waitForResponse('**/sign-out');
    await device.page.getByRole('button').click();
    assert.equal((await answer).status(), 403);
    await device.page.goto('/devices');
    assert.equal(path(device.page), '/devices');
  },

  async no_link_to_the_sign_in_page_leads_elsewhere_afterwards(devices) {
    const foreign = url.replace('127.0.0.1', 'localhost');
    const host = new URL(foreign).host;
    const device = await devices.add();
    for (const hostile of [foreign, `//${host}/`, `/\\${host}/`, `/\t/${host}/`, `\\\\${host}`, ` //${host}/`, `/.//${host}/`, `/%2F${host}`,
      `/%5C${host}`, `/..//${host}/`, 'javascript:document.body.remove()', `https:${host}`, `/\n/${host}`, `@${host}/`, `.${host}`]) {
      await device.page.goto(`/sign-in?next=${encodeURIComponent(hostile)}`);
      await fillIn(device.page, 'anna');
      assert.equal(new URL(device.page.url()).origin, url, hostile);
      assert.equal(path(device.page), '/', hostile);
      assert.equal(await note(device.page), 'Welcome, Anna Berg.');
      await signOut(device.page);
    }
    for (const own of ['/cart', '/devices?a=1&b=%20c', '/checkout']) {
      await device.page.goto(`/sign-in?next=${encodeURIComponent(own)}`);
      await fillIn(device.page, 'anna');
      assert.ok(path(device.page) === own || own === '/checkout', `${own}: ${path(device.page)}`);
      await signOut(device.page);
    }
  },

  async l1_the_token_from_before_the_sign_in_opens_nothing(devices) {
    const [victim, thief] = [await devices.add(), await devices.add()];
    await victim.page.goto('/');
    await buy(victim.page, 'Umbrella');
    const before = await victim.cookie();
    await signIn(victim.page, 'anna');
    assert.notEqual((await victim.cookie()).value, before.value);
    await thief.context.addCookies([before]);
    await thief.page.goto('/devices');
    assert.equal(path(thief.page), '/sign-in?next=/devices');
    assert.equal(await inCart(thief.page), 0);
  },

  async r1_going_back_does_not_bring_a_signed_out_session_back(devices) {
    const [device, thief] = [await devices.add(), await devices.add()];
    await signIn(device.page, 'anna');
    await device.page.goto('/devices');
    const before = await device.cookie();
    await signOut(device.page);
    await device.page.goBack();
    assert.equal(path(device.page), '/sign-in?next=/devices');
    assert.ok(!(await device.page.content()).includes('Anna Berg'));
    await device.page.goForward();
    assert.ok(!(await device.page.content()).includes('Anna Berg'));
    assert.equal(await device.cookie(), undefined);
    await thief.context.addCookies([before]);
    await thief.page.goto('/devices');
    assert.equal(path(thief.page), '/sign-in?next=/devices');
  },

  async r3_signing_out_everywhere_else_ends_the_others_alone(devices) {
    const [mine, lost, sold, bens] = [await devices.add(), await devices.add(), await devices.add(), await devices.add()];
    for (const device of [mine, lost, sold]) await signIn(device.page, 'anna');
    await signIn(bens.page, 'ben');
    await mine.page.goto('/devices');
    await mine.page.getByRole('button', { name: 'Sign out everywhere else' }).click();
    assert.equal(await note(mine.page), 'Signed out on 2 other devices.');
    assert.equal(await mine.page.getByRole('row').count(), 2, 'the head, and this device');
    for (const device of [lost, sold]) {
      await device.page.goto('/');
      assert.equal(await note(device.page), SIGNED_OUT_ELSEWHERE);
    }
    await bens.page.goto('/devices');
    assert.equal(path(bens.page), '/devices');
  },

  async r3_r5_a_device_that_is_signed_out_from_another_learns_why(devices) {
    const phone = 'Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Safari/604.1';
    const [home, away, bens] = [await devices.add(), await devices.add({ userAgent: phone }), await devices.add()];
    await signIn(home.page, 'anna');
    await signIn(away.page, 'anna');
    await signIn(bens.page, 'ben');
    await home.page.goto('/devices');
    assert.equal(await home.page.getByRole('row').count(), 3, "the head and two devices, none of them Ben's");
    assert.match(await home.page.getByRole('row', { name: 'This device' }).innerText(), /Chrome/);
    const token = (await away.cookie()).value;
    assert.ok(!(await home.page.content()).includes(token));
    await home.page.getByRole('row', { name: 'Safari on iPhone' }).getByRole('button').click();
    assert.equal(await note(home.page), 'That device is signed out.');

    // The page asks for somebody signed in: the reason survives the way to the sign-in page.
    await away.page.goto('/devices');
    assert.equal(path(away.page), '/sign-in?next=/devices');
    assert.equal(await note(away.page), SIGNED_OUT_ELSEWHERE);
    assert.equal(await away.cookie(), undefined);
    await away.page.reload();
    assert.equal(await note(away.page), null);
    await fillIn(away.page, 'anna');
    assert.equal(path(away.page), '/devices');
  },

  async set_impersonated_an_administrator_looks_around_as_a_customer_and_goes_back(devices) {
    const [home, office] = [await devices.add(), await devices.add()];
    await signIn(home.page, 'anna');
    await signIn(office.page, 'rita');
    const own = (await office.cookie()).value;
    await office.page.getByRole('link', { name: 'Customers' }).click();
    const row = office.page.getByRole('row', { name: 'Anna Berg' });
    await row.getByLabel('Reason').fill('ticket 17');
    await row.getByRole('button', { name: 'Act as anna' }).click();
    assert.match(await office.page.locator('.acting').innerText(), /rita, you act as Anna Berg/);
    assert.equal(await office.page.getByRole('link', { name: 'Customers' }).count(), 0, 'a customer runs no shop');
    assert.notEqual((await office.cookie()).value.slice(0, 24), own.slice(0, 24), 'another session');
    await buy(office.page, 'Wool scarf');

    // Anna sees none of it.
    await home.page.goto('/devices');
    assert.equal(await home.page.getByRole('row').count(), 2, 'the head and her own device');
    assert.equal(await inCart(home.page), 0);

    await office.page.getByRole('button', { name: 'Back to my own account' }).click();
    assert.equal(path(office.page), '/customers');
    assert.equal(await note(office.page), 'You are back in your own account.');
    assert.equal(await inCart(office.page), 0, "Anna's cart stayed with her session");
    assert.equal((await office.cookie()).value.slice(0, 24), own.slice(0, 24), 'the same session as before');
    assert.notEqual((await office.cookie()).value, own, 'under a new token');
    assert.equal(await office.page.locator('.acting').count(), 0);
  },

  async r8_signing_out_deletes_the_cookie_and_keeps_the_cart(devices) {
    const [empty, full] = [await devices.add(), await devices.add()];
    await signIn(empty.page, 'anna');
    const answer = empty.page.waitForResponse('**/sign-out');
    await signOut(empty.page);
    assert.equal((await (await answer).allHeaders())['clear-site-data'], '"cache", "storage"');
    assert.equal(await empty.cookie(), undefined);

    await signIn(full.page, 'anna');
    await full.page.goto('/');
    await buy(full.page, 'Wool scarf');
    const before = await full.cookie();
    await signOut(full.page);
    assert.equal(await inCart(full.page), 1);
    assert.notEqual((await full.cookie()).value, before.value, 'the cart is in a new, anonymous session');
  },
};

class Devices {
  all = [];

  constructor(browser) {
    this.browser = browser;
  }

  // A browser of its own, as far as cookies and history go.
  async add(options = {}) {
    const context = await this.browser.newContext({ baseURL: url, ...options });
    context.setDefaultTimeout(30_000);
    const page = await context.newPage();
    const cookie = async () => (await context.cookies()).find(({ name }) => name === COOKIE);
    this.all.push(page);
    return { context, page, cookie };
  }
}

async function signIn(page, user, { remember = false, origin = url } = {}) {
  await page.goto(`${origin}/sign-in`);
  await fillIn(page, user, remember);
  assert.match(await note(page), /^Welcome/);
}

async function fillIn(page, user, remember = false) {
  await page.getByLabel('Name').fill(user);
  await page.getByLabel('Password').fill('umbrella');
  if (remember) await page.getByLabel('Keep me signed in').check();
  await page.getByRole('main').getByRole('button', { name: 'Sign in' }).click();
}

async function signOut(page) {
  await page.getByRole('navigation').getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('heading', { name: 'You are signed out' }).waitFor();
}

async function buy(page, product) {
  await page.getByRole('listitem').filter({ hasText: product }).getByRole('button').click();
  assert.equal(await note(page), `${product} is in your cart.`);
}

async function inCart(page) {
  return Number(await page.getByRole('link', { name: /^Cart/ }).locator('b').innerText());
}

async function note(page) {
  const notes = await page.locator('.note:not(.acting)').allInnerTexts();
  return notes.length ? notes.join(' ') : null;
}

const path = (page) => page.url().slice(new URL(page.url()).origin.length);

// The last way out, should something hang.
setTimeout(() => { console.error('played for too long'); process.exit(1); }, 120_000).unref();

const browser = await chromium.launch({
  executablePath: process.env.CLOAKROOM_TEST_BROWSER,
  // Root cannot be put into Chromium's sandbox.
  chromiumSandbox: process.getuid?.() !== 0,
  args: ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
const devices = new Devices(browser);
try {
  await scenarios[scenario](devices);
  console.log(`${scenario}: played`);
} catch (error) {
  for (const [number, page] of devices.all.entries()) {
    const picture = `${pictures}/${scenario}-${number + 1}.png`;
    await page.screenshot({ path: picture }).then(() => console.error(picture), console.error);
  }
  throw error;
} finally {
  await browser.close();
}
