-- A change of a session's data, as most transactions are, sent for the first time: what commit.lua does, in less time.
-- Arguments: store, id, now, session, most bytes, what the client knows, the change; then of each value that is relied on
-- whether it is there, and its entry.
local call, find, KEY = redis.call, string.find, KEYS[2]
local row, data = unpack(call('HMGET', KEY, 'v', 'd'))
local seen = call('HMGET', KEYS[1], 'store', ARGV[5])
if seen[1] ~= ARGV[2] then return { 3 } end
local lead, revision, idle, ends, version, size, changes =
  string.match(row or '', '^((%d+) (%d*) (%-?%d*) %d )(%d+) (%d+) (.*)$')
local done = lead and find(changes, ARGV[3], 1, true)
while done and done % 8 ~= 1 do done = find(changes, ARGV[3], done + 1, true) end
if done then return { 1 } end
local now, after = tonumber(ARGV[4]), size
local holds = lead and (idle == '' or now < math.min(seen[2] + idle, 253402128000000)) and (ends == '' or now < ends + 0)
for at = 9, #ARGV, 2 do holds = holds and (find(data, ARGV[at + 1], 1, true) and '1' or '0') == ARGV[at] end
if holds then
  data, after = merged(data, size, ARGV[8])
  holds = after <= tonumber(ARGV[6]) or after <= tonumber(size)
end
if not holds then return { 0, { seen[2], whole(KEY) } } end
row = lead .. string.format('%.0f %.0f ', version + 1, after) .. string.sub(changes .. ARGV[3], -128)
call('HSET', KEY, 'v', row, 'd', data)
if ARGV[7] == version .. ' ' .. revision then return seen[2] end
return { { seen[2], whole(KEY) } }
