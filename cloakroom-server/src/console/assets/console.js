'use strict';

// Pages work without this; it adds comfort.

// A page that waits for something looks again by itself, unless its reader is about to write.
if (document.querySelector('[data-refresh]')) {
  setInterval(() => document.activeElement.matches('input, select, textarea') || location.reload(), 2000);
}

// Exact times are shown in the reader's own zone to those who point at them.
for (const time of document.querySelectorAll('time[datetime]')) {
  const at = new Date(time.dateTime);
  if (!Number.isNaN(at.getTime())) time.title += ` · here ${at.toLocaleString()}`;
}

// What ends sessions is sent once, however often the button is pressed.
for (const form of document.querySelectorAll('form[method=post]')) {
  form.addEventListener('submit', (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = 'yes';
  });
}
addEventListener('pageshow', () => {
  for (const form of document.querySelectorAll('form[data-sent]')) delete form.dataset.sent;
});

// The audit log shows entries as they come. What strangers wrote stays text.
for (const live of document.querySelectorAll('[data-live]')) {
  const rows = document.querySelector('.log tbody');
  const [status, pause] = [live.querySelector('[role=status]'), live.querySelector('button')];
  let events;
  let last;

  const hidden = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
  const shown = (text) => String(text).replace(hidden, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
  const words = (code) => shown(code).replaceAll('_', ' ');
  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const link = (path, text, className) => {
    const element = make('a', undefined, className);
    element.href = path;
    element.append(make('bdi', shown(text)));
    return element;
  };
  const cell = (row, label, ...content) => {
    const element = make('td');
    element.dataset.label = label;
    element.append(...content.flatMap((part) => [part, ' ']).slice(0, -1));
    row.append(element);
  };

  function add(entry) {
    if (live.dataset.event && entry.event !== live.dataset.event) return;
    const row = make('tr', undefined, entry.impersonated_by || entry.audit_user ? 'acting new' : 'new');
    cell(row, 'Time', entry.at.slice(0, 19).replace('T', ' '));
    const event = make('span', words(entry.event), entry.event === 'refused' ? 'tag bad' : 'tag');
    cell(row, 'Event', event, ...(entry.reason ? [make('span', words(entry.reason), 'soft')] : []));
    const user = entry.user === null ? make('span', 'anonymous', 'soft') : link(`/console/sessions?user=${encodeURIComponent(entry.user)}`, entry.user, 'plain');
    const behind = [['Impersonated by', entry.impersonated_by], ['Audited by', entry.audit_user]].filter(([, who]) => who);
    cell(row, 'User', user, ...behind.map(([how, who]) => make('span', `${how} ${shown(who)}`, 'tag warn')));
    cell(row, 'Session', link(`/console/sessions/${encodeURIComponent(entry.session)}`, entry.session, 'id'));
    cell(row, 'Address', ...(entry.ip ? [link(`/console/sessions?ip=${encodeURIComponent(entry.ip)}`, entry.ip, 'plain')] : []));
    cell(row, 'By', ...(entry.by ? [make('bdi', shown(entry.by))] : []));
    cell(row, 'Note', ...(entry.note ? [make('bdi', shown(entry.note))] : []));
    rows.prepend(row);
    rows.closest('table').hidden = false;
    document.getElementById('none')?.remove();
    while (rows.children.length > 500) rows.lastElementChild.remove();
  }

  function follow() {
    const path = last ? live.dataset.live.replace(/after=[^&]*$/, '') + `after=${encodeURIComponent(last)}` : live.dataset.live;
    events = new EventSource(path);
    const take = (event) => {
      last = event.lastEventId || last;
      add(JSON.parse(event.data));
    };
    for (const name of ['started', 'signed_in', 'impersonated', 'refused', 'rotated', 'changed', 'ended']) events.addEventListener(name, take);
    events.onopen = () => { status.textContent = 'Live'; live.classList.add('on'); };
    events.onerror = () => { status.textContent = events.readyState === 2 ? 'Cut off: load the page again' : 'Connecting again'; live.classList.remove('on'); };
  }

  pause.addEventListener('click', () => {
    if (events.readyState !== 2) {
      events.close();
      live.classList.remove('on');
      [status.textContent, pause.textContent] = ['Paused', 'Go on'];
    } else {
      pause.textContent = 'Pause';
      follow();
    }
  });
  addEventListener('pagehide', () => events.close());
  live.hidden = false;
  follow();
}
