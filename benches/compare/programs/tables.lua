-- Tables as objects, arrays and queues, with closures over them.
local scale = tonumber(arg[1])
local total = 0

local Point = {}
Point.__index = Point
local function point(x, y)
  return setmetatable({ x = x, y = y, history = {} }, Point)
end
function Point:move(dx, dy)
  self.history[#self.history + 1] = { self.x, self.y }
  self.x, self.y = self.x + dx, self.y + dy
end

for round = 1, math.max(1, scale // 3) do
  local points = {}
  for index = 1, 10000 do
    points[index] = point(index, round)
  end
  for step = 1, 6 do
    for index = step, #points, 2 do
      points[index]:move(step, -step)
    end
  end
  local byline = {}
  for _, one in ipairs(points) do
    local key = one.x % 500
    byline[key] = byline[key] or {}
    table.insert(byline[key], function() return one.y + #one.history end)
  end
  for key = 0, 499 do
    for _, read in ipairs(byline[key] or {}) do
      total = total + read()
    end
  end
end
print(total)
