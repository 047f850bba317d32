#include "vmm/libvirt/domain/scaled_size.h"

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

constexpr uint64_t kKibibyte = 1024;

// In bytes; nothing: there is no such unit.
std::optional<uint64_t> UnitOf(absl::string_view unit) {
  if (unit.empty()) return kKibibyte;
  for (const absl::string_view bytes : {"b", "byte", "bytes"}) {
    if (absl::EqualsIgnoreCase(unit, bytes)) return 1;
  }
  constexpr absl::string_view kPowers = "kmgtpe";
  const size_t power = kPowers.find(absl::ascii_tolower(static_cast<unsigned char>(unit[0])));
  const absl::string_view suffix = unit.substr(1);
  const bool binary = suffix.empty() || absl::EqualsIgnoreCase(suffix, "ib");
  if (power == absl::string_view::npos || (!binary && !absl::EqualsIgnoreCase(suffix, "b"))) return std::nullopt;
  uint64_t bytes = 1;
  for (size_t i = 0; i <= power; ++i) bytes *= binary ? 1024 : 1000;
  return bytes;
}

}  // namespace

absl::StatusOr<ByteCount> ParseScaledSize(absl::string_view number, absl::string_view unit) {
  number = absl::StripAsciiWhitespace(number);
  const std::optional<uint64_t> scale = UnitOf(unit);
  if (!scale.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", unit, "\" is no unit: write KiB, MiB or GiB, or KB, MB or GB for powers of 1000"));
  }
  uint64_t count = 0;
  // absl takes a sign.
  if (number.empty() || !absl::ascii_isdigit(static_cast<unsigned char>(number[0])) ||
      !absl::SimpleAtoi(number, &count)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", number, "\" is no size: write a whole number"));
  }
  constexpr uint64_t kMost = uint64_t{INT64_MAX};
  if (count > kMost / *scale) {
    return absl::InvalidArgumentError(absl::StrCat(number, " ", unit, " is more than any machine has"));
  }
  return ByteCount::Bytes((count * *scale + kKibibyte - 1) / kKibibyte * kKibibyte);
}

}  // namespace quire
