local presented, successor, grace, by = ARGV[4], ARGV[5], tonumber(ARGV[6]), optional(ARGV[7])
local at_once = ARGV[8] == '1'
local KEPT = 4

local found = look(SESSION, ID)
if found.state ~= 'live' then return gone(SESSION, found) end

local h = redis.call('HMGET', SESSION, 'k', 'q', 'g', 'w')
local current, issued_at, predecessors = h[1], tonumber(h[2]), h[3]
if current == successor then return record('rotated', SESSION, found.seen) end

local function answer_was_lost()
  local waits = string.sub(predecessors, 1, DIGEST) == presented
    and not string.find(string.sub(predecessors, DIGEST + 1, DIGEST + GRACE), '%d')
  return waits and math.max(NOW - issued_at, 0) >= grace
end

if current == presented then
  local confirmed = current .. string.rep(' ', GRACE) .. confirm(predecessors, math.min(NOW + grace, LATEST))
  predecessors = string.sub(confirmed, 1, KEPT * (DIGEST + GRACE))
elseif not answer_was_lost() then
  return record('superseded', SESSION, found.seen)
end
if at_once then predecessors = set_graces(predecessors, 0, true) end
redis.call('HSET', SESSION, 'k', successor, 'q', int(NOW), 'g', predecessors)
redis.call('HINCRBY', SESSION, 'r', 1)
log('rotated', int(NOW), ID, h[4], { b = by })
return record('rotated', SESSION, found.seen)
