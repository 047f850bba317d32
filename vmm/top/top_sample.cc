#include "vmm/top/top_sample.h"

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace quire {
namespace {

using Json = nlohmann::ordered_json;

const Json& Get(const Json& object, const char* key) {
  static const Json* const nothing = new Json();
  if (!object.is_object()) return *nothing;
  const auto found = object.find(key);
  return found == object.end() ? *nothing : *found;
}
uint64_t Count(const Json& object, const char* key) {
  const Json& value = Get(object, key);
  return value.is_number_unsigned() ? value.get<uint64_t>() : 0;
}
ByteCount Size(const Json& object, const char* key) { return ByteCount::Bytes(Count(object, key)); }
double Number(const Json& object, const char* key) {
  const Json& value = Get(object, key);
  return value.is_number() ? value.get<double>() : 0;
}
std::string Word(const Json& object, const char* key) {
  const Json& value = Get(object, key);
  return value.is_string() ? value.get<std::string>() : "";
}

TopGuest GuestOf(const Json& json) {
  TopGuest guest{.id = Count(json, "id"),
                 .name = Word(json, "name"),
                 .state = Word(json, "state"),
                 .memory = Size(json, "memory_bytes"),
                 .resident = Size(json, "resident_bytes"),
                 .out = Size(json, "out_bytes"),
                 .shared = Size(json, "shared_bytes"),
                 .compressed = Size(json, "compressed_bytes"),
                 .operations = Count(json, "operations"),
                 .faults = Count(json, "faults"),
                 .reclaimed_pages = Count(json, "reclaimed_pages"),
                 .mismatched_pages = Count(json, "mismatched_pages"),
                 .pool_limit = Size(json, "pool_limit_bytes")};
  if (json.contains("balloon_bytes")) guest.balloon = Size(json, "balloon_bytes");
  return guest;
}

}  // namespace

absl::StatusOr<TopSample> ParseTopSample(absl::string_view report) {
  const Json json = Json::parse(report.begin(), report.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !Get(json, "guests").is_array()) {
    return absl::InternalError("what came is no report: is the run of the same version of quire?");
  }
  const Json &pool = Get(json, "pool"), &faults = Get(json, "faults"), &swap = Get(json, "swap");
  TopSample sample{.engine = Word(json, "engine"),
                   .accel = Word(json, "accel"),
                   .merge = Word(Get(json, "policies"), "merge"),
                   .huge = Word(Get(json, "policies"), "huge"),
                   .elapsed_seconds = Number(json, "elapsed_seconds"),
                   .pool_limit = Size(pool, "limit_bytes"),
                   .resident = Size(pool, "resident_bytes"),
                   .out = Size(pool, "out_bytes"),
                   .shared = Size(pool, "shared_bytes"),
                   .compressed = Size(pool, "compressed_bytes"),
                   .wired = Size(pool, "wired_bytes"),
                   .free = Size(pool, "free_bytes"),
                   .saved = Size(Get(json, "merge"), "saved_bytes"),
                   .blocks = PageCount::OfBlocks(Count(Get(json, "huge"), "blocks_mapped")).bytes(),
                   .faults = Count(faults, "total"),
                   .pages_out = Count(swap, "pages_out"),
                   .pages_in = Count(swap, "pages_in"),
                   .p50_us = Number(faults, "p50_us"),
                   .p99_us = Number(faults, "p99_us")};
  const Json& cpu = Get(json, "cpu_seconds");
  for (auto thread = cpu.begin(); cpu.is_object() && thread != cpu.end(); ++thread) {
    if (thread->is_number()) sample.cpu_seconds.emplace_back(thread.key(), thread->get<double>());
  }
  for (const Json& guest : Get(json, "guests")) sample.guests.push_back(GuestOf(guest));
  return sample;
}

}  // namespace quire
