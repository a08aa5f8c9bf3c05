local change, lease, if_version, max = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local remove_all, audited = ARGV[8] == '1', ARGV[9] == '1'
local relied_on, removed, set, fields = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local first = 14

local found = look(SESSION, ID)
if found.state ~= 'live' then return gone(SESSION, found) end

local h = redis.call('HMGET', SESSION, 'l', 'f', 'u', 'v', 'z', 'w')
local recent, version, before = h[1] or '', h[4], tonumber(h[5])
-- Ids have eight bytes each; these may be found across two of them as well.
local applied = string.find(recent, change, 1, true)
while applied do
  if applied % 8 == 1 then return record('applied', SESSION, found.seen) end
  applied = string.find(recent, change, applied + 1, true)
end
if lease ~= '' and (h[2] ~= lease or not (NOW < tonumber(h[3]))) then return { 'lease' } end
if if_version ~= '' and if_version ~= version then return record('conflict', SESSION, found.seen) end
for at = first, first + 2 * relied_on - 1, 2 do
  if redis.call('HGET', SESSION, 'd:' .. ARGV[at]) ~= optional(ARGV[at + 1]) then
    return record('conflict', SESSION, found.seen)
  end
end

first = first + 2 * relied_on
local first_set = first + removed
local first_field = first_set + 2 * set
local size = remove_all and 0 or before
local function without(key)
  local length = redis.call('HSTRLEN', SESSION, 'd:' .. key)
  -- No JSON text is empty.
  if length > 0 and not remove_all then size = size - #key - length end
end
for at = first, first_set - 1 do without(ARGV[at]) end
for at = first_set, first_field - 1, 2 do
  without(ARGV[at])
  size = size + #ARGV[at] + #ARGV[at + 1]
end
if size > max and size > before then return { 'large', int(size) } end

if remove_all then
  for _, field in ipairs(redis.call('HKEYS', SESSION)) do
    if string.sub(field, 1, 2) == 'd:' then redis.call('HDEL', SESSION, field) end
  end
end
for at = first, first_set - 1 do redis.call('HDEL', SESSION, 'd:' .. ARGV[at]) end
for at = first_set, first_field - 1, 2 do redis.call('HSET', SESSION, 'd:' .. ARGV[at], ARGV[at + 1]) end
for at = first_field, first_field + 2 * fields - 1, 2 do
  local value = optional(ARGV[at + 1])
  if value then redis.call('HSET', SESSION, ARGV[at], value) else redis.call('HDEL', SESSION, ARGV[at]) end
end
redis.call('HSET', SESSION, 'z', int(size), 'l', string.sub(recent .. change, -512))
redis.call('HINCRBY', SESSION, 'v', 1)
if fields > 0 then
  local ends = redis.call('HMGET', SESSION, 'o', 'x')
  expire_at(ID, deadline(found.seen, ends[1], ends[2]))
end
if audited then log('changed', int(NOW), ID, h[6], {}) end
return record('applied', SESSION, found.seen)
