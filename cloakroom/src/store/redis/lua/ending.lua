-- How sessions of a group end.
-- Takes a record that is there out of everything and leaves a tombstone, under the same key, and an audit entry.
local function bury(session, id, at, ending)
  local h = redis.call('HMGET', session, 'w', 'k', 'q', 'r', 'g', 'p', 'e')
  redis.call('DEL', session)
  redis.call('HSET', session, 't', at, 'c', ending.reason, 'w', h[1], 'k', h[2], 'q', h[3], 'r', h[4], 'g', h[5])
  if ending.by then redis.call('HSET', session, 'b', ending.by) end
  if ending.note then redis.call('HSET', session, 'm', ending.note) end
  redis.call('HDEL', SEEN, id)
  redis.call('ZREM', EXPIRY, id)
  redis.call('ZREM', INDEX, h[6])
  if h[7] and redis.call('HGET', RETRIES, h[7]) == id then redis.call('HDEL', RETRIES, h[7]) end
  redis.call('ZADD', BURIED, at, id)
  log('ended', at, id, h[1], { r = ending.reason, b = ending.by, m = ending.note })
end

-- Ends a session, and answers what became of it.
local function finish(session, id, ending)
  local found = look(session, id)
  if found.state == 'expired' then bury(session, id, found.at, { reason = found.reason }) end
  if found.state ~= 'live' then
    local answer = gone(session, found)
    local same = answer[2] == int(NOW) and answer[3] == ending.reason
      and answer[4] == ending.by and answer[5] == ending.note
    -- An earlier try of this call, whose answer was lost, ended it.
    if AGAIN and same then answer[1] = 'now' end
    return answer
  end
  bury(session, id, int(NOW), ending)
  local answer = gone(session, { state = 'ended' })
  answer[1] = 'now'
  return answer
end
