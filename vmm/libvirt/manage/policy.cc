#include "vmm/libvirt/manage/policy.h"

#include <fnmatch.h>

#include <cmath>
#include <map>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "vmm/experiment/config.h"
#include "vmm/files.h"
#include "vmm/libvirt/manage/to_bytes.h"
#include "vmm/text.h"

namespace quire {
namespace {

constexpr ByteCount kLongestFile = ByteCount::MiB(1);

// "25%" as 0.25; nothing if it is something else, or not from 0 to 100.
std::optional<double> ParsePercent(absl::string_view text) {
  double percent = 0;
  if (!absl::ConsumeSuffix(&text, "%") || !absl::SimpleAtod(text, &percent)) return std::nullopt;
  if (!(percent >= 0 && percent <= 100)) return std::nullopt;
  return percent / 100;
}

class PolicyReader {
 public:
  PolicyReader(absl::string_view file, const ConfigNode& root) : file_(file), root_(root) {}

  absl::StatusOr<Policy> Read() {
    ConfigReader reader(file_, "the policy", root_);
    double interval = absl::ToDoubleSeconds(policy_.interval);
    reader.ReadNumber("interval", 1, 3600, interval);
    policy_.interval = absl::Seconds(interval);
    Section(reader, "host", &PolicyReader::ReadHost);
    Section(reader, "balloon", &PolicyReader::ReadBalloon);
    Section(reader, "ksm", &PolicyReader::ReadKsm);
    Section(reader, "memtune", &PolicyReader::ReadMemtune);
    Section(reader, "defaults", &PolicyReader::ReadDefaults);
    if (const ConfigNode* const domains = reader.Tables("domains"); domains != nullptr && status_.ok()) {
      for (const ConfigNode& domain : domains->array) ReadDomain(domain);
    }
    if (absl::Status status = reader.Finish(); !status.ok()) return status;
    if (!status_.ok()) return status_;
    return policy_;
  }

 private:
  void Section(ConfigReader& root, const char* name, void (PolicyReader::*read)(ConfigReader&)) {
    const ConfigNode* const table = root.Table(name);
    if (table == nullptr || !status_.ok()) return;
    const std::string where = absl::StrCat("[", name, "]");
    ConfigReader reader(file_, where, *table);
    (this->*read)(reader);
    if (status_.ok()) status_ = reader.Finish();
  }

  void ReadHost(ConfigReader& reader) {
    ReadAmount(reader, "reserve", policy_.host.reserve);
    if (!policy_.host.reserve.size && policy_.host.reserve.part > 0.9) {
      reader.Fail("reserve", "reserve in [host] leaves the domains less than a tenth: write at most \"90%\"");
    }
    reader.ReadNumber("pressure", 0.1, 100, policy_.host.pressure);
  }

  void ReadBalloon(ConfigReader& reader) {
    Policy::Balloon& balloon = policy_.balloon;
    reader.Read("enabled", balloon.enabled);
    reader.ReadNumber("tax", 0, 0.99, balloon.tax);
    ReadPart(reader, "headroom", balloon.headroom);
    ReadPart(reader, "step", balloon.step);
    ReadPart(reader, "deadband", balloon.deadband);
    if (balloon.step < 0.01) reader.Fail("step", "step in [balloon] is to be at least \"1%\" of a domain's memory");
    if (balloon.deadband < 0.001 || balloon.deadband >= balloon.step) {
      reader.Fail("deadband",
                  "deadband in [balloon] is to be at least \"0.1%\", and less than step: no change would be made");
    }
  }

  void ReadKsm(ConfigReader& reader) {
    Policy::Ksm& ksm = policy_.ksm;
    constexpr int64_t kMostPages = 1'000'000;
    reader.Read("enabled", ksm.enabled);
    ReadAmount(reader, "below", ksm.below);
    reader.ReadWhole("least_pages", 1, kMostPages, ksm.least_pages);
    reader.ReadWhole("most_pages", 1, kMostPages, ksm.most_pages);
    reader.ReadWhole("boost", 1, kMostPages, ksm.boost);
    reader.ReadWhole("decay", 1, kMostPages, ksm.decay);
    reader.ReadWhole("sleep_millisecs", 1, 3'600'000, ksm.sleep_millisecs);
    if (ksm.least_pages > ksm.most_pages) {
      reader.Fail("least_pages", absl::StrCat("least_pages in [ksm], ", ksm.least_pages, ", is more than most_pages, ",
                                              ksm.most_pages));
    }
  }

  void ReadMemtune(ConfigReader& reader) {
    reader.Read("soft_limits", policy_.memtune.soft_limits);
    std::optional<ByteCount> overhead;
    reader.ReadSize("overhead", overhead);
    if (overhead) policy_.memtune.overhead = *overhead;
    if (policy_.memtune.overhead > ByteCount::GiB(1024)) {
      reader.Fail("overhead", "overhead in [memtune] is more than any process needs: write a size such as \"256M\"");
    }
  }

  void ReadDefaults(ConfigReader& reader) { ReadBounds(reader, policy_.defaults); }

  void ReadDomain(const ConfigNode& table) {
    if (!status_.ok()) return;
    DomainPolicy domain = policy_.defaults;
    domain.name.clear();
    ConfigReader reader(file_, "[[domains]]", table);
    reader.Read("name", domain.name);
    if (domain.name.empty())
      reader.Fail("name", "[[domains]] is to have a name: that of a domain, or such as \"web-*\"");
    CheckReachable(reader, domain.name, table.line);
    ReadBounds(reader, domain);
    status_ = reader.Finish();
    policy_.domains.push_back(std::move(domain));
  }

  // A table that never counts is a mistake of whoever wrote it.
  void CheckReachable(ConfigReader& reader, const std::string& name, int line) {
    for (const DomainPolicy& earlier : policy_.domains) {
      if (earlier.name != name && earlier.name != "*") continue;
      reader.Fail("name",
                  absl::StrCat("this never counts, since the table with the name \"", earlier.name, "\" in line ",
                               lines_[earlier.name], " stands before it: the first that matches counts"));
    }
    lines_.emplace(name, line);
  }

  void ReadBounds(ConfigReader& reader, DomainPolicy& domain) {
    reader.Read("manage", domain.manage);
    reader.ReadNumber("shares", 1, 1e6, domain.shares);
    ReadAmount(reader, "min", domain.min);
    ReadAmount(reader, "max", domain.max);
    const bool sizes = domain.min.size && domain.max.size, parts = !domain.min.size && !domain.max.size;
    if ((sizes && *domain.min.size > *domain.max.size) || (parts && domain.min.part > domain.max.part)) {
      reader.Fail("min", "min is more than max");
    }
    if (domain.max.size ? *domain.max.size == ByteCount() : domain.max.part == 0) {
      reader.Fail("max", "max is nothing, and no guest runs in that");
    }
  }

  void ReadAmount(ConfigReader& reader, absl::string_view key, Amount& amount) {
    const ConfigNode* const node = reader.Note(key);
    if (node == nullptr) return;
    const std::string text = node->scalar.is_string() ? node->scalar.get<std::string>() : "";
    if (node->scalar.is_number_integer() && node->scalar.get<int64_t>() >= 0) {
      amount = {.size = ByteCount::Bytes(static_cast<uint64_t>(node->scalar.get<int64_t>()))};
    } else if (const std::optional<double> part = ParsePercent(text)) {
      amount = Amount::Part(*part);
    } else if (const std::optional<ByteCount> size = ParseSize(text)) {
      amount = {.size = size};
    } else {
      reader.Fail(key, absl::StrCat(key, " is to be a size such as \"2G\", or a part such as \"10%\""));
    }
  }

  void ReadPart(ConfigReader& reader, absl::string_view key, double& part) {
    const ConfigNode* const node = reader.Note(key);
    if (node == nullptr) return;
    const std::optional<double> read =
        node->scalar.is_string() ? ParsePercent(node->scalar.get<std::string>()) : std::nullopt;
    if (!read) return reader.Fail(key, absl::StrCat(key, " is to be a part from \"0%\" to \"100%\", between quotes"));
    part = *read;
  }

  const absl::string_view file_;
  const ConfigNode& root_;
  Policy policy_;
  absl::Status status_;
  std::map<std::string, int> lines_;  // of names in [[domains]]
};

}  // namespace

ByteCount Amount::Of(ByteCount whole) const {
  if (size) return *size;
  return ToBytes(static_cast<double>(whole.in_bytes()) * part);
}

const DomainPolicy& Policy::For(const std::string& name) const {
  for (const DomainPolicy& domain : domains) {
    if (domain.name == name || fnmatch(domain.name.c_str(), name.c_str(), 0) == 0) return domain;
  }
  return defaults;
}

absl::StatusOr<Policy> ParsePolicy(absl::string_view file, absl::string_view text) {
  const absl::StatusOr<ConfigNode> root = ParseToml(file, text);
  if (!root.ok()) return root.status();
  return PolicyReader(file, *root).Read();
}

absl::StatusOr<Policy> ReadPolicy(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadWhole("policy", path, kLongestFile);
  if (!text.ok()) return text.status();
  return ParsePolicy(path, *text);
}

}  // namespace quire
