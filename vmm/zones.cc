#include "vmm/zones.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "vmm/report.h"

namespace quire {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kAdvice = "write one with `quire run --json=FILE`";

std::optional<uint64_t> Number(const Json& zone, const char* key) {
  const auto value = zone.find(key);
  if (value == zone.end() || !value->is_number_unsigned()) return std::nullopt;
  return value->get<uint64_t>();
}

// False: something is missing, or no number.
bool AppendZone(const Json& zone, std::string& table) {
  if (!zone.is_object() || !zone.contains("name") || !zone["name"].is_string()) return false;
  const auto size = Number(zone, "size"), limit = Number(zone, "limit"), used = Number(zone, "used"),
             free = Number(zone, "free"), requests = Number(zone, "requests"), failures = Number(zone, "failures"),
             frames = Number(zone, "frames");
  if (!size || !limit || !used || !free || !requests || !failures || !frames) return false;
  // Nobody sleeps until there is room in a zone: the column is there for who knows vmstat.
  absl::StrAppendFormat(&table, "%-20s %5u, %7u, %8u, %8u, %9u, %7u, %5d, %7u\n",
                        absl::StrCat(zone["name"].get<std::string>(), ":"), *size, *limit, *used, *free, *requests,
                        *failures, 0, *frames);
  return true;
}

}  // namespace

absl::StatusOr<std::string> ReadReport(const std::string& path) {
  std::ifstream file;
  if (path != "-") {
    errno = 0;
    file.open(path, std::ios::binary);
    // A directory can be opened, but not read.
    if (file.peek() == std::ifstream::traits_type::eof()) {
      return absl::InvalidArgumentError(absl::StrCat("the report ", path, " cannot be read or is empty",
                                                     errno != 0 ? absl::StrCat(" (", std::strerror(errno), ")") : "",
                                                     ": ", kAdvice));
    }
  }
  return std::string(std::istreambuf_iterator<char>(path == "-" ? std::cin : file), {});
}

absl::StatusOr<std::string> ZonesTable(absl::string_view report) {
  const Json json = Json::parse(report.begin(), report.end(), /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("zones") || !json["zones"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("this is no report with zones: ", kAdvice));
  }
  const Json& zones = json["zones"];
  const std::optional<uint64_t> version = Number(zones, "version");
  if (version != uint64_t{kZonesVersion}) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the zones of this report have version ", version ? absl::StrCat(*version) : "none", ", and version ",
        kZonesVersion, " is what this program reads: ", kAdvice, " of the same version of quire"));
  }
  std::string table = absl::StrFormat("%-20s %5s  %7s  %8s  %8s  %9s  %7s  %5s  %7s\n", "ITEM", "SIZE", "LIMIT", "USED",
                                      "FREE", "REQ", "FAIL", "SLEEP", "FRAMES");
  if (!zones.contains("zones") || !zones["zones"].is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("the zones of this report are damaged: ", kAdvice));
  }
  for (const Json& zone : zones["zones"]) {
    if (AppendZone(zone, table)) continue;
    return absl::InvalidArgumentError(absl::StrCat("a zone of this report is damaged: ", kAdvice));
  }
  return table;
}

}  // namespace quire
