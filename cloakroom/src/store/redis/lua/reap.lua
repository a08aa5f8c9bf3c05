local sessions, tombstones, tombstones_before = ARGV[4], ARGV[5], ARGV[6]
local entries, entries_before = ARGV[7], tonumber(ARGV[8])

local due = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', int(NOW), 'LIMIT', 0, sessions)
local old = redis.call('ZRANGEBYSCORE', BURIED, '-inf', tombstones_before, 'LIMIT', 0, tombstones)
for _, id in ipairs(due) do redis.call('EXISTS', SESSION_KEYS .. id) end
for _, id in ipairs(old) do redis.call('EXISTS', SESSION_KEYS .. id) end

local ended = {}
for _, id in ipairs(due) do
  local session = SESSION_KEYS .. id
  local found = look(session, id)
  if found.state == 'expired' then
    bury(session, id, found.at, { reason = found.reason })
    local answer = gone(session, { state = 'ended' })
    answer[1] = id
    ended[#ended + 1] = answer
  end
end
for _, id in ipairs(old) do
  redis.call('DEL', SESSION_KEYS .. id)
  redis.call('ZREM', BURIED, id)
end
redis.call('ZREMRANGEBYSCORE', FENCED, '-inf', tombstones_before)

local forgotten = {}
for _, entry in ipairs(redis.call('XRANGE', AUDIT, '-', '+', 'COUNT', entries)) do
  if tonumber(entry[2][2]) > entries_before then break end
  forgotten[#forgotten + 1] = entry[1]
end
if #forgotten > 0 then redis.call('XDEL', AUDIT, unpack(forgotten)) end

local notes = {}
if redis.call('EXISTS', TODO) == 1 then notes = redis.call('HSCAN', TODO, 0, 'COUNT', 64)[2] end
return { ended, #old, #forgotten, notes }
