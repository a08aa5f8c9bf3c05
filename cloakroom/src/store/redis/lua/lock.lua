local lease = tonumber(ARGV[4])
local found = look(SESSION, ID)
if found.state ~= 'live' then return gone(SESSION, found) end
local held_until = redis.call('HGET', SESSION, 'u')
if held_until and NOW < tonumber(held_until) then return { 'held', held_until } end
redis.call('HINCRBY', SESSION, 'f', 1)
redis.call('HSET', SESSION, 'u', int(math.min(NOW + lease, LATEST)))
return record('granted', SESSION, found.seen)
