#include "vmm/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

struct Look {
  const char* ascii;
  const char* unicode;
  const char* color;  // an ANSI escape sequence
};
// In the order of Fill.
constexpr std::array<Look, 5> kLooks = {{
    {"#", "█", "\x1b[32m"},
    {"+", "▓", "\x1b[33m"},
    {"=", "▚", "\x1b[35m"},
    {":", "▒", "\x1b[34m"},
    {"w", "▤", "\x1b[36m"},
}};
constexpr Look kEmpty = {".", "·", ""};

std::string Cells(const Look& look, int cells, const Terminal& terminal) {
  std::string text;
  for (int i = 0; i < cells; ++i) text += terminal.unicode ? look.unicode : look.ascii;
  if (!terminal.color || cells == 0 || *look.color == '\0') return text;
  return absl::StrCat(look.color, text, "\x1b[0m");
}

const Look& LookOf(Fill fill) { return kLooks[static_cast<size_t>(fill)]; }

// The locale is not set in this program, so the variables are read as setlocale would.
bool LocaleIsUtf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    return std::strstr(value, "UTF-8") != nullptr || std::strstr(value, "utf8") != nullptr;
  }
  return false;
}

bool IsSet(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

bool IsDumb() {
  const char* term = std::getenv("TERM");
  return term == nullptr || std::strcmp(term, "dumb") == 0;
}

}  // namespace

Terminal DetectTerminal(int fd) {
  Terminal terminal;
  terminal.unicode = LocaleIsUtf8();
  terminal.interactive = isatty(fd) == 1 && !IsDumb();
  terminal.color = terminal.interactive && !IsSet("NO_COLOR");
  winsize size;
  if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
    terminal.columns = size.ws_col;
    terminal.rows = size.ws_row;
  }
  return terminal;
}

std::string Bar(const std::vector<BarPart>& parts, ByteCount total, int width, const Terminal& terminal) {
  std::string bar;
  int filled = 0;
  ByteCount sum;
  // Rounding the sums instead of the parts keeps the bar's length exact.
  for (const BarPart& part : parts) {
    sum += part.size;
    const double share = total == ByteCount() ? 0 : sum.in_mib() / total.in_mib();
    const int end = std::min(width, static_cast<int>(std::lround(share * width)));
    bar += Cells(LookOf(part.fill), end - filled, terminal);
    filled = end;
  }
  return bar + Cells(kEmpty, width - filled, terminal);
}

std::string Cell(Fill fill, const Terminal& terminal) { return Cells(LookOf(fill), 1, terminal); }

}  // namespace quire
