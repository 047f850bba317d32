// Any console is read within bounds, gives the same in whatever pieces it comes, and gives what can be printed.
#include <cstddef>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "vmm/console_report.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t piece = data[0] + size_t{1};
  const absl::string_view console(reinterpret_cast<const char*>(data) + 1, size - 1);
  quire::ConsoleReport whole, pieces;
  whole.Add(console);
  for (size_t at = 0; at < console.size(); at += piece) pieces.Add(console.substr(at, piece));
  QUIRE_CHECK(whole.values() == pieces.values() && whole.dropped() == pieces.dropped());
  QUIRE_CHECK(whole.values().size() <= quire::ConsoleReport::kMostKeys);
  for (const auto& [key, value] : whole.values()) {
    QUIRE_CHECK(key.size() <= quire::ConsoleReport::kLongestKey && value.size() <= quire::ConsoleReport::kLongestValue);
    for (const char c : key + value) QUIRE_CHECK(absl::ascii_isprint(static_cast<unsigned char>(c)));
  }
  return 0;
}
