-- Strings: formatting, matching, substitution, buffers of pieces.
local scale = tonumber(arg[1])
local total, state = 0, 1
for round = 1, math.max(1, scale // 3) do
  local pieces = {}
  for index = 1, 4000 do
    state = (state * 1103515245 + 12345) % 2147483648
    pieces[index] = string.format("%s=%d;%x", "key" .. index, state, state)
  end
  local text = table.concat(pieces, "\n")
  local fields = {}
  for key, value in text:gmatch("(%w+)=(%d+)") do
    fields[key] = (fields[key] or "") .. value
  end
  local changed = text:gsub("%d%d%d", function(digits) return "<" .. digits .. ">" end)
  total = total + #changed + #text:upper():rep(3) + #(fields.key17 or "")
end
print(total)
