-- Puts a session or a tombstone in as it is, in place of the session that the caller saw.
local id, seen_before, buried_at, place, seen = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local expires_at, retry_of, fields = ARGV[9], ARGV[10], 11
local session = KEYS[10]

local h = redis.call('HMGET', session, 't', 'v', 'r', 'f', 'p', 'e')
local there = ''
if h[1] then
  there = 'ended'
elseif h[2] then
  there = h[2] .. ' ' .. h[3] .. ' ' .. (h[4] or '0') .. ' ' .. redis.call('HGET', SEEN, id)
end
if there ~= seen_before then return 0 end

if h[2] then
  redis.call('DEL', session)
  redis.call('HDEL', SEEN, id)
  redis.call('ZREM', EXPIRY, id)
  redis.call('ZREM', INDEX, h[5])
  if h[6] and redis.call('HGET', RETRIES, h[6]) == id then redis.call('HDEL', RETRIES, h[6]) end
end
for at = fields, #ARGV, 2 do redis.call('HSET', session, ARGV[at], ARGV[at + 1]) end
if buried_at ~= '' then
  redis.call('ZADD', BURIED, buried_at, id)
else
  redis.call('HSET', SEEN, id, seen)
  redis.call('ZADD', INDEX, 0, place)
  if expires_at ~= '' then redis.call('ZADD', EXPIRY, expires_at, id) end
  if retry_of ~= '' then redis.call('HSET', RETRIES, retry_of, id) end
end
return 1
