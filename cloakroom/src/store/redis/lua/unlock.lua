local number = ARGV[4]
local found = look(SESSION, ID)
if found.state ~= 'live' then return 0 end
local h = redis.call('HMGET', SESSION, 'f', 'u')
if h[1] ~= number then return 0 end
local held_until = tonumber(h[2])
-- An earlier try of this call, whose answer was lost, gave it back.
if AGAIN and held_until == NOW then return 1 end
if NOW >= held_until then return 0 end
redis.call('HSET', SESSION, 'u', int(NOW))
return 1
