#include "vmm/libvirt/qemu/qemu_guests.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <pugixml.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/libvirt/qemu/qemu_run.h"
#include "vmm/schedule.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A libvirt whose domains have no processes. What QemuGuests does not ask is not answered.
class FakeLibvirt final : public LibvirtConnection {
 public:
  struct FakeDomain {
    std::string xml;
    bool paused = true;
    ByteCount memory = {};
    DomainMemoryStats statistics = {};
  };
  std::map<std::string, FakeDomain> domains;  // that there are, by UUID
  std::vector<std::string> log;
  absl::Status refuses = absl::OkStatus();  // to create any

  absl::StatusOr<DomainSummary> CreatePaused(absl::string_view xml) override {
    if (!refuses.ok()) return refuses;
    pugi::xml_document document;
    EXPECT_TRUE(document.load_buffer(xml.data(), xml.size()));
    const pugi::xml_node domain = document.child("domain");
    const DomainSummary summary{.uuid = domain.child_value("uuid"), .name = domain.child_value("name"), .id = 1};
    domains[summary.uuid] = {.xml = std::string(xml)};
    consoles[summary.name.substr(summary.name.find('-', 6) + 1)] =
        domain.child("devices").child("serial").child("source").attribute("path").value();
    log.push_back("create");
    return summary;
  }
  std::map<std::string, std::string> consoles;  // paths, by guests' names
  absl::Status Resume(const std::string& uuid) override {
    log.push_back("resume");
    domains.at(uuid).paused = false;
    return absl::OkStatus();
  }
  absl::Status Destroy(const std::string& uuid) override {
    if (domains.erase(uuid) == 0) return absl::NotFoundError("no such domain");
    log.push_back("destroy");
    return absl::OkStatus();
  }
  absl::Status SetMemory(const std::string& uuid, ByteCount memory) override {
    domains.at(uuid).memory = memory;
    return absl::OkStatus();
  }
  absl::StatusOr<DomainActivity> GetActivity(const std::string& uuid) override {
    if (!domains.contains(uuid)) return absl::NotFoundError("no such domain");
    return DomainActivity{.state = DomainState::kRunning, .cpu_time = absl::Seconds(2)};
  }
  absl::StatusOr<DomainMemoryStats> GetMemoryStats(const std::string& uuid) override {
    return domains.at(uuid).statistics;
  }
  absl::StatusOr<std::string> HostName() override { return "host"; }

  bool IsAlive() override { return true; }
  absl::StatusOr<std::string> Uri() override { return No(); }
  absl::StatusOr<std::string> Capabilities() override { return No(); }
  absl::StatusOr<std::vector<DomainSummary>> ListDomains(DomainSet) override { return No(); }
  absl::StatusOr<DomainSummary> FindDomain(absl::string_view) override { return No(); }
  absl::StatusOr<DomainSummary> Domain(const std::string&) override { return No(); }
  absl::StatusOr<std::string> DomainXml(const std::string&, XmlOf) override { return No(); }
  absl::StatusOr<DomainMemory> GetMemory(const std::string&) override { return No(); }
  absl::StatusOr<int> GetMemoryStatsPeriod(const std::string&) override { return No(); }
  absl::Status SetMemoryStatsPeriod(const std::string&, int) override { return No(); }
  absl::StatusOr<MemoryTune> GetMemoryTune(const std::string&) override { return No(); }
  absl::Status SetMemoryTune(const std::string&, const MemoryTune&) override { return No(); }
  absl::Status RemoveSoftLimit(const std::string&) override { return No(); }
  absl::StatusOr<DomainSummary> Define(absl::string_view) override { return No(); }
  absl::StatusOr<DomainSummary> CreateTransient(absl::string_view) override { return No(); }
  absl::Status Start(const std::string&) override { return No(); }
  absl::Status Shutdown(const std::string&) override { return No(); }
  absl::Status Undefine(const std::string&) override { return No(); }
  absl::StatusOr<NodeInfo> GetNodeInfo() override { return No(); }
  absl::StatusOr<NodeMemory> GetNodeMemory() override { return No(); }
  absl::StatusOr<NodeKsm> GetNodeKsm() override { return No(); }
  absl::Status SetNodeKsm(const NodeKsm&) override { return No(); }

 private:
  static absl::Status No() { return absl::UnimplementedError("nobody asks this"); }
};

class QemuGuestsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(host_.directory);
    options_.merge = Merge::kOff;
    options_.pc = PcOptions{.kernel = "/proc/self/exe"};
    options_.groups = {{.name = "a", .guests = 2, .memory = ByteCount::MiB(128), .command_line = "one"},
                       {.name = "b", .guests = 1, .memory = ByteCount::MiB(64), .command_line = "two"}};
    guests_ = std::make_unique<QemuGuests>(libvirt_, options_, host_, "/kernel", "/initrd");
  }
  void TearDown() override { std::filesystem::remove_all(host_.directory); }
  const FakeLibvirt::FakeDomain& DomainNamed(const std::string& name) {
    for (const auto& [uuid, domain] : libvirt_.domains) {
      if (absl::StrContains(domain.xml, absl::StrCat("-", name, "<"))) return domain;
    }
    ADD_FAILURE() << "no domain " << name;
    return libvirt_.domains.begin()->second;
  }
  // It has ended itself, or was killed.
  void Lose(const std::string& name) {
    std::erase_if(libvirt_.domains,
                  [&](const auto& one) { return absl::StrContains(one.second.xml, absl::StrCat("-", name, "<")); });
  }
  void Say(const std::string& name, const std::string& text) {
    std::ofstream(libvirt_.consoles.at(name), std::ios::app) << text;
  }

  FakeLibvirt libvirt_;
  RunOptions options_;
  uint64_t killed_ = 3;  // before the run, too
  QemuHost host_ = {.uri = "fake:///",
                    .accel = {.kvm = false, .because = "it was asked for"},
                    .directory = absl::StrCat(testing::TempDir(), "/qemu-guests-test"),
                    .oom_kills = [this] { return killed_; }};
  std::unique_ptr<QemuGuests> guests_;
};

TEST_F(QemuGuestsTest, AGuestIsADomainThatIsStartedAndThenResumed) {
  ASSERT_EQ(guests_->count(), 3u);
  EXPECT_EQ(guests_->GroupOf(1), 0u);
  EXPECT_EQ(guests_->GroupOf(2), 1u);
  EXPECT_FALSE(guests_->StateOf(2).started);
  guests_->StartGuest(2);
  EXPECT_THAT(libvirt_.log, ElementsAre("create", "resume"));
  EXPECT_TRUE(guests_->StateOf(2).running());
  const std::string& xml = DomainNamed("b-0").xml;
  EXPECT_THAT(xml, HasSubstr("<cmdline>two</cmdline>"));
  EXPECT_THAT(xml, HasSubstr("<kernel>/kernel</kernel>"));
  EXPECT_THAT(xml, HasSubstr("<initrd>/initrd</initrd>"));
  EXPECT_THAT(xml, HasSubstr("nosharepages"));
  EXPECT_THAT(xml, HasSubstr(">65536<"));
  EXPECT_EQ(guests_->Snapshots()[2].state, GuestSnapshot::State::kRunning);
  EXPECT_EQ(guests_->Snapshots()[0].state, GuestSnapshot::State::kWaiting);
  guests_->StopGuest(2);
  EXPECT_TRUE(libvirt_.domains.empty());
  EXPECT_TRUE(guests_->StateOf(2).finished);
  EXPECT_EQ(guests_->Report(2).pc->ended, "time");
  EXPECT_TRUE(guests_->Report(2).exit.ok());
  // It is over.
  guests_->StopGuest(2);
  EXPECT_EQ(libvirt_.log.size(), 3u);
}

TEST_F(QemuGuestsTest, NobodyIsLeftBehind) {
  guests_->StartGuest(0);
  guests_->StartGuest(1);
  EXPECT_EQ(libvirt_.domains.size(), 2u);
  guests_.reset();
  EXPECT_TRUE(libvirt_.domains.empty());
}

TEST_F(QemuGuestsTest, AGuestThatCannotBeStartedSaysWhy) {
  libvirt_.refuses = absl::InternalError("no such machine");
  guests_->StartGuest(0);
  EXPECT_TRUE(guests_->StateOf(0).finished);
  EXPECT_FALSE(guests_->StateOf(0).out_of_memory);
  EXPECT_THAT(guests_->Report(0).exit.message(), HasSubstr("no such machine"));
  EXPECT_EQ(guests_->Report(0).state, "stopped");
}

// There is no such process, so its memory could not be limited.
TEST_F(QemuGuestsTest, AGuestThatCannotBeLimitedDoesNotRun) {
  host_.procs = open("/dev/null", 1);
  guests_->StartGuest(0);
  close(host_.procs);
  EXPECT_TRUE(guests_->StateOf(0).finished);
  EXPECT_TRUE(libvirt_.domains.empty());
  EXPECT_THAT(libvirt_.log, ElementsAre("create", "destroy"));
}

TEST_F(QemuGuestsTest, OneThatTheKernelKilledWasOutOfMemoryAndAnotherHasEndedItself) {
  guests_->StartGuest(0);
  guests_->StartGuest(1);
  Lose("a-0");
  guests_->Look();
  EXPECT_TRUE(guests_->StateOf(0).finished);
  EXPECT_FALSE(guests_->StateOf(0).out_of_memory);
  EXPECT_EQ(guests_->Report(0).pc->ended, "power off or reset");
  Lose("a-1");
  ++killed_;
  guests_->Look();
  EXPECT_TRUE(guests_->StateOf(1).out_of_memory);
  EXPECT_THAT(guests_->Report(1).exit.message(), HasSubstr("a-1"));
  EXPECT_EQ(guests_->Report(1).state, "stopped");
}

TEST_F(QemuGuestsTest, BalloonsAreSetAlsoBeforeAGuestStarts) {
  guests_->StartGuest(0);
  guests_->SetBalloon(0, ByteCount::MiB(32));
  EXPECT_EQ(DomainNamed("a-0").memory, ByteCount::MiB(96));
  guests_->SetBalloon(1, ByteCount::MiB(64));
  guests_->StartGuest(1);
  EXPECT_THAT(DomainNamed("a-1").xml, HasSubstr("<currentMemory unit=\"KiB\">65536<"));
}

TEST_F(QemuGuestsTest, WhatGuestsAndLibvirtSayIsInSnapshotsAndReports) {
  guests_->StartGuest(0);
  guests_->StartGuest(1);
  for (auto& [uuid, domain] : libvirt_.domains) {
    domain.statistics = {.swap_in = ByteCount::KiB(4),
                         .unused = ByteCount::MiB(20),
                         .available = ByteCount::MiB(100),
                         .balloon = ByteCount::MiB(112),
                         .rss = ByteCount::MiB(90)};
  }
  Say("a-0", "quire: operations=100 note=x\n");
  Say("a-1", "quire: operations=20\n");
  guests_->Look();
  EXPECT_EQ(guests_->CountAll().operations, 120u);
  EXPECT_EQ(guests_->CountAll().cpu, absl::Seconds(4));
  const GuestSnapshot snapshot = guests_->Snapshots()[0];
  EXPECT_EQ(snapshot.operations, 100u);
  EXPECT_EQ(snapshot.rss, ByteCount::MiB(90));
  EXPECT_EQ(snapshot.told.balloon, ByteCount::MiB(16));
  EXPECT_EQ(snapshot.told.total, ByteCount::MiB(100));
  EXPECT_EQ(snapshot.told.free, ByteCount::MiB(20));
  EXPECT_EQ(snapshot.told.swapped_in, ByteCount::KiB(4));
  EXPECT_FALSE(snapshot.told.swapped_out.has_value());
  const GuestReport report = guests_->Report(0);
  EXPECT_EQ(report.pc->console.at("note"), "x");
  EXPECT_EQ(report.pc->balloon_bytes, ByteCount::MiB(16));
  EXPECT_EQ(report.peak_resident_bytes, ByteCount::MiB(90));
}

class Samples : public ProgressSink {
 public:
  void Update(const Snapshot& snapshot) override { phases.push_back(snapshot.phase); }
  void ShowLine(absl::string_view) override {}
  bool interrupted() const override { return phases.size() >= most; }
  std::vector<std::string> phases;
  size_t most = 1000;
};

TEST_F(QemuGuestsTest, ARunGoesThroughItsPhasesAndSaysWhoRanIt) {
  options_.schedule = Schedule{.phases = {{.name = "first", .duration = absl::Milliseconds(250)},
                                          {.name = "second", .duration = absl::Milliseconds(250), .start = {1}}}};
  options_.pc->own_initramfs = true;
  Samples samples;
  const absl::StatusOr<nlohmann::json> report = RunQemuGuests(options_, host_, libvirt_, samples);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(libvirt_.domains.empty());
  EXPECT_EQ((*report)["engine"], "qemu");
  EXPECT_EQ((*report)["accel"], "tcg");
  EXPECT_EQ((*report)["qemu"]["accel_because"], "it was asked for");
  EXPECT_EQ((*report)["guests"].size(), 3u);
  EXPECT_TRUE((*report)["guests"][0]["memory_stats"].is_object());
  ASSERT_EQ((*report)["phases"].size(), 3u);
  EXPECT_EQ((*report)["phases"][1]["guests"], 2);
  EXPECT_EQ((*report)["phases"][2]["guests"], 3);
  EXPECT_THAT(samples.phases, testing::Contains("second"));
}

TEST_F(QemuGuestsTest, ARunEndsWhenNobodyListensAnyMore) {
  options_.schedule = Schedule{.phases = {{.name = "long", .duration = absl::Hours(1)}}};
  Samples samples;
  samples.most = 2;
  ASSERT_TRUE(RunQemuGuests(options_, host_, libvirt_, samples).ok());
  EXPECT_TRUE(libvirt_.domains.empty());
}

TEST_F(QemuGuestsTest, WithoutItsKernelThereIsNoRun) {
  options_.pc->kernel = "/nonexistent";
  Samples samples;
  EXPECT_THAT(RunQemuGuests(options_, host_, libvirt_, samples).status().message(), HasSubstr("/nonexistent"));
  EXPECT_TRUE(libvirt_.log.empty());
}

}  // namespace
}  // namespace quire
