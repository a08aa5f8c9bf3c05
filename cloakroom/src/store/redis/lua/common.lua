-- What all scripts share. They compare bytes and add sizes, and never decode a value. An error in the middle of a
-- script rolls nothing back, so each looks at every key it will write before its first write.
local AGAIN, NOW = ARGV[1] == '1', tonumber(ARGV[2])
-- No time lies beyond this one.
local LATEST = 253402128000000
local DIGEST, GRACE = 32, 15

-- tostring() keeps 14 digits only.
local function int(number)
  return string.format('%.0f', number)
end

-- '' for none, '=text' for some.
local function optional(argument)
  return argument ~= '' and string.sub(argument, 2)
end

local function deadline(seen, idle, ends)
  local earliest = ends and tonumber(ends)
  if idle then
    local unused = math.min(tonumber(seen) + tonumber(idle), LATEST)
    if not earliest or unused < earliest then earliest = unused end
  end
  return earliest
end

-- What is under a session's key: unknown, ended, expired (at, for a reason) or live.
local function look(session, id)
  local head = redis.call('HMGET', session, 'w', 't', 'o', 'x')
  if not head[1] then return { state = 'unknown' } end
  if head[2] then return { state = 'ended' } end
  local seen = redis.call('HGET', SEEN, id)
  if not seen then error('damaged: no last-seen of ' .. id) end
  local at = deadline(seen, head[3], head[4])
  if at and at <= NOW then
    local reason = head[4] and tonumber(head[4]) == at and 'absolute_timeout' or 'idle_timeout'
    return { state = 'expired', at = int(at), reason = reason }
  end
  return { state = 'live', seen = seen, idle = head[3], ends = head[4] }
end

-- The answer about a session that was found not to live.
local function gone(session, found)
  if found.state == 'unknown' then return { 'unknown' } end
  local h = redis.call('HMGET', session, 't', 'c', 'b', 'm', 'w', 'k', 'q', 'r', 'g')
  return { 'ended', h[1] or found.at, h[2] or found.reason, h[3], h[4], h[5], h[6], h[7], h[8], h[9] }
end

local function record(answer, session, seen)
  return { answer, seen, redis.call('HGETALL', session) }
end

local function expire_at(id, at)
  if at then
    redis.call('ZADD', EXPIRY, int(at), id)
  else
    redis.call('ZREM', EXPIRY, id)
  end
end

local function log(event, at, id, who, more)
  local entry = { 't', at, 'e', event, 's', id, 'w', who }
  for field, value in pairs(more) do
    if value then
      entry[#entry + 1] = field
      entry[#entry + 1] = value
    end
  end
  redis.call('XADD', AUDIT, '*', unpack(entry))
end

-- Predecessors are packed: a digest and the end of its grace, blank while the successor was not presented.
local function set_graces(predecessors, grace_ends, of_all)
  local packed = {}
  for at = 1, #predecessors, DIGEST + GRACE do
    local digest = string.sub(predecessors, at, at + DIGEST - 1)
    local grace = string.sub(predecessors, at + DIGEST, at + DIGEST + GRACE - 1)
    if of_all or not string.find(grace, '%d') then grace = string.format('%15.0f', grace_ends) end
    packed[#packed + 1] = digest .. grace
  end
  return table.concat(packed)
end

local function confirm(predecessors, grace_ends)
  return set_graces(predecessors, grace_ends, false)
end

local ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

-- The id at the end of a place in the index, as text.
local function id_at(place)
  local text = {}
  for at = 25, 42, 3 do
    local a, b, c = string.byte(place, at, at + 2)
    local bits = (a * 256 + b) * 256 + c
    for shift = 3, 0, -1 do
      local six = math.floor(bits / 64 ^ shift) % 64 + 1
      text[#text + 1] = string.sub(ALPHABET, six, six)
    end
  end
  return table.concat(text)
end
