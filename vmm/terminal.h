// What the output can show, and the bars drawn on it.
#ifndef QUIRE_VMM_TERMINAL_H_
#define QUIRE_VMM_TERMINAL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/units.h"

namespace quire {

struct Terminal {
  bool interactive = false;  // lines can be redrawn in place
  bool color = false;
  bool unicode = false;
  int columns = 80;
  int rows = 24;
};

// What file descriptor `fd` leads to, as it is now: windows change their size. Colors are off where NO_COLOR is set
// to anything (no-color.org), redrawing where TERM is "dumb".
Terminal DetectTerminal(int fd);

enum class Fill : uint8_t { kResident, kOut, kShared, kCompressed, kWired };

struct BarPart {
  Fill fill;
  ByteCount size;
};

// A bar of `width` cells that stand for `total`: the parts in order, then empty cells. Parts past `total` are cut.
std::string Bar(const std::vector<BarPart>& parts, ByteCount total, int width, const Terminal& terminal);

// One cell of a part, for legends.
std::string Cell(Fill fill, const Terminal& terminal);

}  // namespace quire

#endif  // QUIRE_VMM_TERMINAL_H_
