#include "vmm/results/measure.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/units.h"
#include "vmm/text.h"

namespace quire::results {
namespace {

struct Known {
  const char* key;
  const char* name;
  Unit unit;
  const char* more;
  const char* less;
};

constexpr Known kKnown[] = {
    {"operations_per_second", "operations a second", Unit::kPerSecond, "does $0 times as many operations a second as",
     "does $0 % fewer operations a second than"},
    {"cpu_seconds", "CPU time", Unit::kSeconds, "takes $0 times as much CPU time as", "takes $0 % less CPU time than"},
    {"memory_bytes", "memory in use", Unit::kBytes, "uses $0 times as much memory as", "uses $0 % less memory than"},
    {"peak_memory_bytes", "most memory in use", Unit::kBytes, "uses, at most, $0 times as much memory as",
     "uses, at most, $0 % less memory than"},
    {"guest_memory_bytes", "memory given to guests", Unit::kBytes, "gives its guests $0 times as much memory as",
     "gives its guests $0 % less memory than"},
    {"saved_bytes", "memory saved by merging", Unit::kBytes, "saves $0 times as much memory by merging as",
     "saves $0 % less memory by merging than"},
    {"huge_share", "memory mapped by 2 MiB", Unit::kShare, "has $0 times as much of its memory mapped by 2 MiB as",
     "has $0 % less of its memory mapped by 2 MiB than"},
    {"faults_per_second", "faults a second", Unit::kPerSecond, "has $0 times as many faults a second as",
     "has $0 % fewer faults a second than"},
    {"latency_p50_us", "median time of an operation", Unit::kMicroseconds,
     "takes $0 times as long for the median operation as", "takes $0 % less time for the median operation than"},
    {"latency_p99_us", "99th percentile of operations' times", Unit::kMicroseconds,
     "takes $0 times as long for operations at the 99th percentile as",
     "takes $0 % less time for operations at the 99th percentile than"},
    {"fault_p50_us", "median time of a fault", Unit::kMicroseconds, "takes $0 times as long for the median fault as",
     "takes $0 % less time for the median fault than"},
    {"fault_p99_us", "99th percentile of faults' times", Unit::kMicroseconds,
     "takes $0 times as long for faults at the 99th percentile as",
     "takes $0 % less time for faults at the 99th percentile than"},
    {"guests_that_ran", "guests at the same time", Unit::kNumber, "runs $0 times as many guests as",
     "runs $0 % fewer guests than"},
    {"mismatched_pages", "wrong pages", Unit::kNumber, "has $0 times as many wrong pages as",
     "has $0 % fewer wrong pages than"},
};

struct Suffix {
  const char* text;
  Unit unit;
};

constexpr Suffix kSuffixes[] = {{"_per_second", Unit::kPerSecond},
                                {"_seconds", Unit::kSeconds},
                                {"_us", Unit::kMicroseconds},
                                {"_bytes", Unit::kBytes},
                                {"_share", Unit::kShare}};

// Three digits at least; whole numbers are not rounded.
std::string Digits(double value) {
  const double size = std::abs(value);
  if (size >= 100) return absl::StrFormat("%.0f", value);
  if (size >= 10) return absl::StrFormat("%.1f", value);
  return size >= 1 ? absl::StrFormat("%.2f", value) : absl::StrFormat("%.3g", value);
}

// Beyond bytes of 64 bits there is nothing to be told from noise.
ByteCount ToBytes(double bytes) { return ByteCount::Bytes(static_cast<uint64_t>(std::clamp(bytes, 0.0, 1.8e19))); }

std::string FormatMicroseconds(double us) {
  if (us >= 1e6) return absl::StrCat(Digits(us / 1e6), " s");
  return us >= 1e3 ? absl::StrCat(Digits(us / 1e3), " ms") : absl::StrCat(Digits(us), " \u00b5s");
}

std::string FormatNumber(double value) {
  if (value == std::floor(value) && std::abs(value) < 10'000) return absl::StrFormat("%.0f", value);
  return std::abs(value) >= 1000 ? FormatShort(value) : Digits(value);
}

std::string FormatPositive(double value, Unit unit) {
  switch (unit) {
    case Unit::kNumber:
      return FormatNumber(value);
    case Unit::kPerSecond:
      return absl::StrCat(value >= 1000 ? FormatShort(value) : Digits(value), "/s");
    case Unit::kSeconds:
      return absl::StrCat(Digits(value), " s");
    case Unit::kMicroseconds:
      return FormatMicroseconds(value);
    case Unit::kBytes:
      return FormatSize(ToBytes(value));
    case Unit::kShare:
      return absl::StrCat(Digits(value * 100), " %");
  }
  return "";
}

}  // namespace

absl::string_view Name(Unit unit) {
  switch (unit) {
    case Unit::kNumber:
      return "number";
    case Unit::kPerSecond:
      return "per_second";
    case Unit::kSeconds:
      return "seconds";
    case Unit::kMicroseconds:
      return "us";
    case Unit::kBytes:
      return "bytes";
    case Unit::kShare:
      return "share";
  }
  return "";
}

Measure MeasureOf(absl::string_view key) {
  for (const Known& known : kKnown) {
    if (key == known.key) return {known.key, known.name, known.unit, known.more, known.less};
  }
  Unit unit = Unit::kNumber;
  for (const Suffix& suffix : kSuffixes) {
    if (absl::EndsWith(key, suffix.text)) unit = suffix.unit;
  }
  const std::string name = absl::StrReplaceAll(key, {{"_per_second", " a second"}, {"_", " "}});
  // The name is a file's: it must not be taken for a place where a number goes.
  const std::string quoted = absl::StrReplaceAll(name, {{"$", "$$"}});
  return {std::string(key), name, unit, absl::StrCat("has $0 times the ", quoted, " of"),
          absl::StrCat("has $0 % less ", quoted, " than")};
}

// The bounds of an interval may lie below 0.
std::string Format(double value, Unit unit) {
  return value < 0 ? absl::StrCat("-", FormatPositive(-value, unit)) : FormatPositive(value, unit);
}

std::string FormatRatio(double ratio) {
  if (ratio >= 1e4 || ratio < 1e-3) return absl::StrFormat("%.2g", ratio);
  if (ratio >= 9.95) return absl::StrFormat("%.0f", ratio);
  if (ratio >= 1.95) return absl::StrFormat("%.1f", ratio);
  const std::string two = absl::StrFormat("%.2f", ratio);
  return two == "1.00" && ratio != 1 ? absl::StrFormat("%.4g", ratio) : two;
}

}  // namespace quire::results
