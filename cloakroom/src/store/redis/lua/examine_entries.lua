-- Whether entries of an index have the session or tombstone that they are about. Answers with 1 for those that have not.
local mends, kind = ARGV[4] == '1', ARGV[5]
local index = ({ expiry = EXPIRY, seen = SEEN, users = INDEX, retries = RETRIES, tombstones = BURIED })[kind]
local is_hash = kind == 'seen' or kind == 'retries'

local function is_wrong(entry)
  local there
  if is_hash then there = redis.call('HGET', index, entry) else there = redis.call('ZSCORE', index, entry) end
  -- It went meanwhile.
  if not there then return false end
  local id = entry
  if kind == 'retries' then id = there end
  if kind == 'users' then
    if #entry ~= 42 then return true end
    id = id_at(entry)
  end
  local session = SESSION_KEYS .. id
  local h = redis.call('HMGET', session, 'w', 't', 'p', 'e', 'o', 'x')
  -- What is damaged is told of elsewhere.
  if not h[1] then return redis.call('EXISTS', session) == 0 end
  if kind == 'tombstones' then return not h[2] end
  if h[2] then return true end
  if kind == 'users' then return h[3] ~= entry end
  if kind == 'retries' then return h[4] ~= entry end
  if kind == 'expiry' then return not (h[5] or h[6]) end
  return false
end

local answers, found = {}, {}
for n = 6, #ARGV do
  answers[n - 5] = 0
  if is_wrong(ARGV[n]) then
    answers[n - 5] = 1
    found[#found + 1] = ARGV[n]
  end
end
if mends then
  for _, entry in ipairs(found) do redis.call(is_hash and 'HDEL' or 'ZREM', index, entry) end
end
return answers
