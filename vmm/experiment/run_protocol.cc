#include "vmm/experiment/run_protocol.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "vmm/files.h"
#include "vmm/libvirt/qemu/qemu_run.h"
#include "vmm/report.h"
#include "vmm/run.h"

namespace quire {
namespace {

using Json = nlohmann::json;

// The experiment hears of the run by samples. What guests write to their consoles is in the report, by its keys.
class SampleWriter : public ProgressSink {
 public:
  explicit SampleWriter(int fd) : fd_(fd) {}

  void Update(const Snapshot& snapshot) override { Write(FormatSample(SampleOf(snapshot))); }
  void ShowLine(absl::string_view) override {}
  // Nobody reads: the experiment has gone.
  bool interrupted() const override { return broken_; }
  void Write(const std::string& line) {
    if (!WriteAll(fd_, absl::StrCat(line, "\n"))) broken_ = true;
  }

 private:
  const int fd_;
  bool broken_ = false;
};

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json SizeJson(const std::optional<ByteCount>& size) {
  return size.has_value() ? Json(size->in_bytes()) : Json(nullptr);
}

std::optional<ByteCount> SizeIn(const Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_unsigned()) return std::nullopt;
  return ByteCount::Bytes(found->get<uint64_t>());
}

// A guest that does not say is left out of the sum.
void AddTo(std::optional<ByteCount>& sum, const std::optional<ByteCount>& size) {
  if (size.has_value()) sum = sum.value_or(ByteCount()) + *size;
}

// By their keys in a message.
struct ToldKey {
  const char* key;
  std::optional<ByteCount> GuestSnapshot::Told::*size;
};
constexpr ToldKey kTold[] = {{"balloon", &GuestSnapshot::Told::balloon},
                             {"guest_total", &GuestSnapshot::Told::total},
                             {"guest_free", &GuestSnapshot::Told::free},
                             {"guest_swapped_in", &GuestSnapshot::Told::swapped_in},
                             {"guest_swapped_out", &GuestSnapshot::Told::swapped_out}};

}  // namespace

Sample SampleOf(const Snapshot& snapshot) {
  Sample sample{.seconds = absl::ToDoubleSeconds(snapshot.elapsed), .phase = snapshot.phase};
  for (const GuestSnapshot& guest : snapshot.guests) {
    sample.operations += guest.operations;
    sample.faults += guest.faults;
    using State = GuestSnapshot::State;
    sample.guests += guest.state == State::kRunning;
    sample.filling += guest.state == State::kFilling;
    for (const ToldKey& told : kTold) AddTo(sample.told.*told.size, guest.told.*told.size);
    AddTo(sample.rss, guest.rss);
  }
  if (!snapshot.pool.has_value()) return sample;
  sample.huge = snapshot.huge;
  sample.resident = snapshot.pool->resident;
  sample.shared = snapshot.pool->shared;
  sample.compressed = snapshot.pool->compressed;
  sample.free = snapshot.pool->free;
  sample.other = snapshot.pool->out + snapshot.pool->wired;
  return sample;
}

std::string FormatSample(const Sample& sample) {
  Json json = {{"seconds", sample.seconds},
               {"phase", sample.phase},
               {"operations", sample.operations},
               {"faults", sample.faults},
               {"guests", sample.guests},
               {"filling", sample.filling},
               {"resident", SizeJson(sample.resident)},
               {"shared", SizeJson(sample.shared)},
               {"compressed", SizeJson(sample.compressed)},
               {"other", SizeJson(sample.other)},
               {"free", SizeJson(sample.free)},
               {"huge", SizeJson(sample.huge)},
               {"rss", SizeJson(sample.rss)}};
  for (const ToldKey& told : kTold) json[told.key] = SizeJson(sample.told.*told.size);
  return Dump({{"sample", std::move(json)}});
}

absl::StatusOr<RunMessage> ParseMessage(absl::string_view line) {
  const Json json = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  RunMessage message;
  if (!json.is_object()) return absl::InternalError("a run wrote what is no message");
  if (json.contains("report")) message.report = json["report"];
  if (json.contains("error") && json["error"].is_string()) message.error = json["error"].get<std::string>();
  if (!json.contains("sample") || !json["sample"].is_object()) return message;
  const Json& from = json["sample"];
  message.sample = Sample{.seconds = from.value("seconds", 0.0),
                          .phase = from.value("phase", ""),
                          .operations = from.value("operations", uint64_t{0}),
                          .faults = from.value("faults", uint64_t{0}),
                          .guests = from.value("guests", uint64_t{0}),
                          .filling = from.value("filling", uint64_t{0}),
                          .resident = SizeIn(from, "resident"),
                          .shared = SizeIn(from, "shared"),
                          .compressed = SizeIn(from, "compressed"),
                          .other = SizeIn(from, "other"),
                          .free = SizeIn(from, "free"),
                          .huge = SizeIn(from, "huge"),
                          .rss = SizeIn(from, "rss")};
  for (const ToldKey& told : kTold) message.sample->told.*told.size = SizeIn(from, told.key);
  return message;
}

void RunAndTell(const RunOptions& options, int fd) {
  SampleWriter writer(fd);
  const absl::StatusOr<Report> report = RunGuests(options, writer);
  if (!report.ok()) return writer.Write(Dump({{"error", report.status().message()}}));
  // On one line.
  writer.Write(Dump({{"report", Json::parse(ToJson(*report))}}));
}

void RunQemuAndTell(const RunOptions& options, const QemuHost& host, int fd) {
  SampleWriter writer(fd);
  const absl::StatusOr<Json> report = RunQemuGuests(options, host, writer);
  if (!report.ok()) return writer.Write(Dump({{"error", report.status().message()}}));
  writer.Write(Dump({{"report", *report}}));
}

}  // namespace quire
