-- One transaction. All that it relies on is compared before its first write: an error in the middle of a script rolls
-- nothing back. Bytes are compared and counted, never decoded; what is written the client has made.
-- Answers what each write of data and each touch is answered with, or {0} for a conflict and perhaps the slot, {1} if it
-- was done before, {2} if that cannot be told, {3} if this is not the store that was opened.
local AGAIN, STORE, ID, NOW, OF_GROUP, at = ARGV[1] == '1', ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), 5
local SEEN, AUDIT, LOGGED, INDEX, DUE, TRIES, ENDED, USERS, SIGNED_IN = unpack(KEYS, 1, OF_GROUP)
local KEPT, LATEST, PORTION = 16 * 8, 253402128000000, 4000
local call, match, sub = redis.call, string.match, string.sub
local ROW = '^((%d+) (%d*) (%-?%d*) %d )(%d+) (%d+) (.*)$'

-- unpack() ends at some 8,000.
local function portions(command, key, list, first, last, found)
  for from = first, last, PORTION do
    local some = call(command, key, unpack(list, from, math.min(last, from + PORTION - 1)))
    for n = 1, found and #some or 0 do found[#found + 1] = some[n] end
  end
  return found
end

local slots, ids, broken = {}, { 'store' }, false
for n = 1, #KEYS - OF_GROUP do
  local key, id, state = KEYS[OF_GROUP + n], ARGV[at + 1], ARGV[at + 2]
  at = at + 2
  local found = call('HMGET', key, 'v', 'w', 'p', 'h', 'd')
  local lead, revision, idle, ends, version, size, changes = match(found[1] or found[2] or '', ROW)
  slots[n] = { key = key, id = id, there = lead, open = found[1], place = found[3], head = found[4], data = found[5],
    lead = lead, revision = revision, idle = idle, ends = ends, version = version, size = size, changes = changes }
  ids[n + 1], broken = id, broken or state ~= '' and state ~= (found[1] and 'open' or lead and 'ended' or 'empty')
end
local seen = portions('HMGET', SEEN, ids, 1, #ids, {})
if seen[1] ~= STORE then return { 3 } end

local function lives(id, time, idle, ends)
  local unused = idle ~= '' and math.min((time or error('no last-seen of ' .. id)) + idle, LATEST)
  return (not unused or NOW < unused) and (ends == '' or NOW < ends + 0)
end
local function of_user(user) return match(call('HGET', USERS, user) or '0', '^%d+') end
local function body(n) return { seen[n + 1], whole(slots[n].key) } end

local function known(changes)
  local found = string.find(changes, ID, 1, true)
  while found and found % 8 ~= 1 do found = string.find(changes, ID, found + 1, true) end
  return found
end
local mark, marked, value = unpack(ARGV, #ARGV - 2)
if AGAIN or mark == 'data' then
  local s, done = slots[tonumber(marked)], mark == 'user' and of_user(marked) == value
  if s and s.there then
    done = mark == 'create' or mark == 'head' and s.revision == value or known(s.changes)
    local many = #s.changes == KEPT and (value == '' or s.version - value > KEPT / 8)
    if AGAIN and mark == 'data' and many and not done then return { 2 } end
  end
  if done then return { 1 } end
end

at = at + 1
for _ = 1, broken and 0 or ARGV[at] do
  local kind, n, value = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local s, holds = slots[tonumber(n)], false
  at = at + 3
  if kind == 'user' then holds = of_user(n) == value
  elseif kind == 'try' then holds = (call('HGET', TRIES, n) or '') == value
  elseif kind == 'count' then
    local living, sessions, count = 0, ARGV[at + 1], tonumber(ARGV[at + 2])
    for _, place in ipairs(call('ZRANGEBYLEX', INDEX, n, value)) do
      local id = sub(place, 43)
      local lead, _, idle, ends = match(call('HGET', sessions .. id, 'v'), ROW)
      if sub(lead, -2, -2) == '1' and lives(id, call('HGET', SEEN, id), idle, ends) then living = living + 1 end
      if living > count then break end
    end
    at, holds = at + 2, living == count
  elseif not s.open then holds = false
  elseif kind == 'live' then holds = lives(s.id, seen[n + 1], s.idle, s.ends)
  elseif kind == 'value' then at, holds = at + 1, (string.find(s.data, value, 1, true) and '1' or '0') == ARGV[at + 1]
  elseif kind == 'unseen' then holds = seen[n + 1] + 0 <= value + 0
  elseif kind == 'most' then holds = (s.after or s.size) + 0 <= math.max(value, s.size)
  elseif kind == 'change' then -- before it all data go, or none
    local all = ARGV[at + 1] == '1'
    s.merged, s.after = merged(all and '\30' or s.data, all and 0 or s.size, value)
    at, holds = at + 1, true
  else holds = s[kind] == value end -- revision or version
  if not holds then broken = true break end
end
if broken then return { 0, slots[1] and not slots[2] and body(1) or nil } end

local function row(s) return s.lead .. s.version .. ' ' .. s.size .. ' ' .. s.changes end
local function leave(s, unless)
  if not s.open or s.place == unless then return end
  local try = sub(s.place, 67)
  if try ~= '' and call('HGET', TRIES, try) == s.id then call('HDEL', TRIES, try) end
  call('ZREM', INDEX, sub(s.place, 1, 66))
  call('ZREM', DUE, s.id)
  s.place = nil
end
local function enter(s, place, due)
  call('ZADD', INDEX, 0, sub(place, 1, 66))
  if #place > 66 then call('HSET', TRIES, sub(place, 67), s.id) end
  if due ~= '' then call('ZADD', DUE, due, s.id) elseif s.open then call('ZREM', DUE, s.id) end
  s.place = place
end

local answers, bodies = {}, {}
at = at + 1
for _ = 1, ARGV[at] do
  local kind, n, value = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local s = slots[tonumber(n)]
  at = at + 3
  if kind == 'data' then
    answers[#answers + 1] = seen[n + 1]
    if value ~= s.version .. ' ' .. s.revision then bodies[#answers] = n + 0 end
    s.version, s.size = string.format('%.0f', s.version + 1), string.format('%.0f', s.after)
    s.changes = sub(s.changes .. ID, -KEPT)
    call('HSET', s.key, 'v', row(s), 'd', s.merged)
  elseif kind == 'create' then -- last-seen; when it is due, where it stands, its head, its row, its data
    local due, place = ARGV[at + 1], ARGV[at + 2]
    call('HSET', s.key, 'h', ARGV[at + 3], 'p', place, 'v', ARGV[at + 4], 'd', ARGV[at + 5])
    at = at + 5
    call('HSET', SEEN, s.id, value)
    enter(s, place, due)
  elseif kind == 'head' then -- its revision and deadlines; the text, when it is due, where it stands
    local due, place = ARGV[at + 2], ARGV[at + 3]
    s.head, at, s.lead = ARGV[at + 1], at + 3, value
    leave(s, place)
    call('HSET', s.key, 'h', s.head, 'p', place, 'v', row(s))
    enter(s, place, due)
  elseif kind == 'end' then -- how; when
    at, s.size, s.changes = at + 1, 0, sub(s.changes .. ID, -KEPT)
    leave(s)
    call('DEL', s.key)
    call('HSET', s.key, 'h', s.head, 'w', row(s), 'e', value)
    call('ZADD', ENDED, ARGV[at], s.id)
  elseif kind == 'clear' then
    leave(s)
    call('DEL', s.key)
    call('ZREM', ENDED, s.id)
    s.open = nil
  elseif kind == 'touch' then
    local there = s.open and lives(s.id, seen[n + 1], s.idle, s.ends)
    if there and value + 0 > seen[n + 1] + 0 then call('HSET', SEEN, s.id, value) end
    answers[#answers + 1] = there and 1 or 0
  elseif kind == 'sign in' then
    local last = match(call('HGET', SIGNED_IN, n) or value, '^%S+')
    local later = last + 0 <= match(value, '^%S+') + 0 and call('HEXISTS', USERS, n) == 1
    if later then call('HSET', SIGNED_IN, n, value) end
  elseif kind == 'log' then
    if call('SADD', LOGGED, n) == 1 then call('XADD', AUDIT, '*', 'e', value) end
  else -- a command on a key, with so many arguments
    at = at + value
    portions(kind, KEYS[n + 0], ARGV, at - value + 1, at)
  end
end
for n, session in pairs(bodies) do answers[n] = body(session) end
return answers
