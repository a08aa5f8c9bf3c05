-- A change of a session's data, as most transactions are, sent for the first time: what commit.lua does, in less time.
-- Arguments: store, id, now, session, most bytes, bytes set, what the client knows; how many fields are set, go, and are
-- compared; those fields; values set; which of the fields are compared, each with its value.
local KEY, SET, GONE, LAST = KEYS[2], ARGV[9] + 11, ARGV[9] + ARGV[10] + 11, ARGV[9] + ARGV[10] + ARGV[11] + 11
local found = redis.call('HMGET', KEY, 'v', unpack(ARGV, 12, LAST))
local seen = redis.call('HMGET', KEYS[1], 'store', ARGV[5])
if seen[1] ~= ARGV[2] then return { 3 } end
local lead, revision, idle, ends, version, size, changes =
  string.match(found[1] or '', '^((%d+) (%d*) (%-?%d*) %d )(%d+) (%d+) (.*)$')
local done = lead and string.find(changes, ARGV[3], 1, true)
while done and done % 8 ~= 1 do done = string.find(changes, ARGV[3], done + 1, true) end
if done then return { 1 } end
local now, after = tonumber(ARGV[4]), ARGV[7]
local holds = lead and (idle == '' or now < math.min(seen[2] + idle, 253402128000000)) and (ends == '' or now < ends + 0)
for at = LAST + SET - 10, #ARGV, 2 do holds = holds and (found[ARGV[at] + 1] or '') == ARGV[at + 1] end
if holds then
  after = after + size
  for at = 12, GONE do if found[at - 10] then after = after - #found[at - 10] - #ARGV[at] + 1 end end
  holds = after <= tonumber(ARGV[6]) or after <= tonumber(size)
end
if not holds then return { 0, { seen[2], redis.call('HGETALL', KEY) } } end
local row = lead .. string.format('%.0f %.0f ', version + 1, after) .. string.sub(changes .. ARGV[3], -128)
redis.call('HSET', KEY, 'v', row, ARGV[12], ARGV[LAST + 1])
for at = 13, SET do redis.call('HSET', KEY, ARGV[at], ARGV[at + LAST - 11]) end
if GONE > SET then redis.call('HDEL', KEY, unpack(ARGV, SET + 1, GONE)) end
if ARGV[8] == version .. ' ' .. revision then return seen[2] end
return { { seen[2], redis.call('HGETALL', KEY) } }
