// What is asked of libvirt, asked of its test driver: a host that exists in this process alone.
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/libvirt/connection.h"

namespace quire {
namespace {

using DomainSet = LibvirtConnection::DomainSet;
using XmlOf = LibvirtConnection::XmlOf;
using testing::HasSubstr;

constexpr char kNobody[] = "00000000-0000-0000-0000-000000000001";

constexpr char kSmallDomain[] = R"(<domain type='test'>
  <name>small</name>
  <memory unit='MiB'>64</memory>
  <os><type>hvm</type></os>
</domain>)";

std::unique_ptr<LibvirtConnection> Open(const std::string& uri = "test:///default",
                                        LibvirtAccess access = LibvirtAccess::kReadWrite) {
  absl::StatusOr<std::unique_ptr<LibvirtConnection>> opened = OpenLibvirt(uri, access);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

class TestDriver : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(connection_, nullptr); }

  LibvirtConnection& host() { return *connection_; }
  std::string domain() { return connection_->FindDomain("test")->uuid; }

 private:
  const std::unique_ptr<LibvirtConnection> connection_ = Open();
};

TEST_F(TestDriver, IsAliveAndSaysWhereItIs) {
  EXPECT_TRUE(host().IsAlive());
  EXPECT_EQ(*host().Uri(), "test:///default");
  EXPECT_FALSE(host().HostName()->empty());
  EXPECT_THAT(*host().Capabilities(), HasSubstr("<capabilities>"));
}

TEST_F(TestDriver, ListsTheOneDomainThatItHas) {
  const absl::StatusOr<std::vector<DomainSummary>> domains = host().ListDomains(DomainSet::kActive);
  ASSERT_TRUE(domains.ok()) << domains.status();
  ASSERT_EQ(domains->size(), 1u);
  EXPECT_EQ(domains->front().name, "test");
  EXPECT_EQ(domains->front().id, 1);
  EXPECT_EQ(domains->front().state, DomainState::kRunning);
  EXPECT_EQ(Name(domains->front().state), "running");
}

TEST_F(TestDriver, FindsADomainByNameAndByUuid) {
  const absl::StatusOr<DomainSummary> by_name = host().FindDomain("test");
  ASSERT_TRUE(by_name.ok()) << by_name.status();
  EXPECT_EQ(host().FindDomain(by_name->uuid)->name, "test");
  EXPECT_EQ(host().Domain(by_name->uuid)->id, by_name->id);
}

TEST_F(TestDriver, SaysWhichDomainThereIsNot) {
  const absl::Status by_name = host().FindDomain("nobody").status();
  EXPECT_EQ(by_name.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(by_name.message()), HasSubstr("nobody"));
  EXPECT_TRUE(absl::IsNotFound(host().GetMemoryStats(kNobody).status()));
  EXPECT_TRUE(absl::IsNotFound(host().SetMemory(kNobody, ByteCount::MiB(1))));
}

TEST_F(TestDriver, DescribesADomain) {
  EXPECT_THAT(*host().DomainXml(domain(), XmlOf::kNow), HasSubstr("<name>test</name>"));
  EXPECT_THAT(*host().DomainXml(domain(), XmlOf::kNextStart), HasSubstr("<memory unit='KiB'>8388608</memory>"));
}

TEST_F(TestDriver, ReadsMemoryStatistics) {
  const absl::StatusOr<DomainMemoryStats> stats = host().GetMemoryStats(domain());
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->balloon, ByteCount::GiB(2));
  EXPECT_EQ(stats->available, ByteCount::GiB(2));
  EXPECT_EQ(stats->unused, ByteCount::GiB(1));
  EXPECT_EQ(stats->usable, ByteCount::GiB(1));
  EXPECT_EQ(stats->disk_caches, ByteCount::MiB(256));
  EXPECT_EQ(stats->swap_in, ByteCount());
  EXPECT_EQ(stats->major_faults, 0u);
  EXPECT_TRUE(stats->updated.has_value());
}

TEST_F(TestDriver, SetsThePeriodOfStatistics) {
  EXPECT_EQ(*host().GetMemoryStatsPeriod(domain()), 0);
  EXPECT_TRUE(host().SetMemoryStatsPeriod(domain(), 5).ok());
  EXPECT_EQ(*host().GetMemoryStatsPeriod(domain()), 5);
  EXPECT_THAT(*host().DomainXml(domain(), XmlOf::kNow), HasSubstr("<stats period='5'/>"));
}

TEST_F(TestDriver, SetsMemoryUpToTheMaximum) {
  EXPECT_EQ(host().GetMemory(domain())->maximum, ByteCount::GiB(8));
  EXPECT_EQ(host().GetMemory(domain())->current, ByteCount::GiB(2));
  ASSERT_TRUE(host().SetMemory(domain(), ByteCount::GiB(4)).ok());
  EXPECT_EQ(host().GetMemory(domain())->current, ByteCount::GiB(4));
  EXPECT_EQ(host().GetMemoryStats(domain())->balloon, ByteCount::GiB(4));
  const absl::Status too_much = host().SetMemory(domain(), ByteCount::GiB(9));
  EXPECT_TRUE(absl::IsInvalidArgument(too_much)) << too_much;
  EXPECT_EQ(host().GetMemory(domain())->current, ByteCount::GiB(4));
}

TEST_F(TestDriver, SetsAndRemovesMemoryLimits) {
  EXPECT_EQ(*host().GetMemoryTune(domain()), MemoryTune());
  ASSERT_TRUE(host().SetMemoryTune(domain(), {.soft_limit = ByteCount::GiB(3)}).ok());
  ASSERT_TRUE(host().SetMemoryTune(domain(), {.hard_limit = ByteCount::GiB(5)}).ok());
  EXPECT_EQ(*host().GetMemoryTune(domain()),
            (MemoryTune{.hard_limit = ByteCount::GiB(5), .soft_limit = ByteCount::GiB(3)}));
  ASSERT_TRUE(host().RemoveSoftLimit(domain()).ok());
  EXPECT_EQ(*host().GetMemoryTune(domain()), MemoryTune{.hard_limit = ByteCount::GiB(5)});
}

TEST_F(TestDriver, SaysWhatTheHostIs) {
  const absl::StatusOr<NodeInfo> info = host().GetNodeInfo();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->memory, ByteCount::GiB(3));
  EXPECT_EQ(info->cpus, 16u);
}

// The driver has no such host; that is to be told from a host that says no.
TEST_F(TestDriver, SaysThatItHasNoNodeParameters) {
  EXPECT_EQ(host().GetNodeKsm().status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(host().SetNodeKsm({.pages_to_scan = 100}).code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(host().GetNodeMemory().status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(host().GetNodeKsm().status().message()), HasSubstr("same-page merging"));
}

TEST_F(TestDriver, DefinesStartsEndsAndForgetsADomain) {
  const absl::StatusOr<DomainSummary> small = host().Define(kSmallDomain);
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_FALSE(small->active());
  EXPECT_EQ(host().ListDomains(DomainSet::kActive)->size(), 1u);
  EXPECT_EQ(host().ListDomains(DomainSet::kAll)->size(), 2u);
  EXPECT_TRUE(absl::IsFailedPrecondition(host().Destroy(small->uuid)));
  EXPECT_TRUE(absl::IsFailedPrecondition(host().SetMemory(small->uuid, ByteCount::MiB(32))));
  EXPECT_TRUE(host().Start(small->uuid).ok());
  EXPECT_TRUE(host().Domain(small->uuid)->active());
  EXPECT_TRUE(host().Shutdown(small->uuid).ok());
  EXPECT_FALSE(host().Domain(small->uuid)->active());
  EXPECT_TRUE(host().Undefine(small->uuid).ok());
  EXPECT_TRUE(absl::IsNotFound(host().Domain(small->uuid).status()));
}

TEST_F(TestDriver, StartsADomainThatIsGoneOnceItEnds) {
  const absl::StatusOr<DomainSummary> small = host().CreateTransient(kSmallDomain);
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_TRUE(small->active());
  EXPECT_TRUE(host().Destroy(small->uuid).ok());
  EXPECT_TRUE(absl::IsNotFound(host().Domain(small->uuid).status()));
}

TEST_F(TestDriver, RefusesXmlThatIsNone) {
  const absl::Status status = host().Define("<domain type='test'><name>half").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr("\n")));
  EXPECT_TRUE(absl::IsInvalidArgument(host().Define("<domain type='test'/>").status()));
}

TEST(TestDriverConnections, MayBeForReadingOnly) {
  const std::unique_ptr<LibvirtConnection> host = Open("test:///default", LibvirtAccess::kReadOnly);
  ASSERT_NE(host, nullptr);
  const absl::StatusOr<DomainSummary> domain = host->FindDomain("test");
  ASSERT_TRUE(domain.ok()) << domain.status();
  EXPECT_TRUE(host->GetMemoryStats(domain->uuid).ok());
  EXPECT_EQ(host->SetMemory(domain->uuid, ByteCount::GiB(1)).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(host->Destroy(domain->uuid).code(), absl::StatusCode::kPermissionDenied);
}

// All connections to test:///default share one host as long as there is one of them, and the next finds a new one.
TEST(TestDriverConnections, CanBeOpenedAnew) {
  std::unique_ptr<LibvirtConnection> host = Open(), other = Open();
  ASSERT_TRUE(host->SetMemory(host->FindDomain("test")->uuid, ByteCount::GiB(1)).ok());
  EXPECT_EQ(other->GetMemory(other->FindDomain("test")->uuid)->current, ByteCount::GiB(1));
  host.reset();
  EXPECT_TRUE(other->IsAlive());
  other.reset();
  host = Open();
  EXPECT_TRUE(host->IsAlive());
  EXPECT_EQ(host->GetMemory(host->FindDomain("test")->uuid)->current, ByteCount::GiB(2));
}

TEST(TestDriverConnections, SayWhyThereIsNone) {
  const absl::Status no_driver = OpenLibvirt("nobody:///system", LibvirtAccess::kReadWrite).status();
  EXPECT_EQ(no_driver.code(), absl::StatusCode::kUnavailable) << no_driver;
  EXPECT_THAT(std::string(no_driver.message()), HasSubstr("nobody:///system"));
  const absl::Status no_daemon =
      OpenLibvirt("qemu+unix:///system?socket=/nowhere/libvirt-sock", LibvirtAccess::kReadWrite).status();
  EXPECT_EQ(no_daemon.code(), absl::StatusCode::kUnavailable) << no_daemon;
  EXPECT_THAT(std::string(no_daemon.message()), HasSubstr("/nowhere/libvirt-sock"));
}

}  // namespace
}  // namespace quire
