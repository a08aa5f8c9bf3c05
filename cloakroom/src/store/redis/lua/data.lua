-- Data after a change, and their size: of each key of the change what there is goes, and what it has comes last.
local function merged(data, size, change)
  local at, find, sub = 1, string.find, string.sub
  while at <= #change do
    local is = find(change, '\31', at, true)
    local stop = find(change, '\30', is, true)
    local from, last = find(data, '\30' .. sub(change, at, is), 1, true)
    local new = ''
    if stop > is + 1 then new, size = sub(change, at, stop), size + stop - at - 1 end
    if from then
      local to = find(data, '\30', last, true)
      data, size = sub(data, 1, from) .. sub(data, to + 1) .. new, size - (to - from) + 2
    elseif new ~= '' then data = data .. new end
    at = stop + 1
  end
  return data, tonumber(size)
end
local function whole(key) return redis.call('HMGET', key, 'h', 'v', 'w', 'e', 'd') end
