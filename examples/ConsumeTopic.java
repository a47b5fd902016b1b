// Read a derived topic, each message once, with Kafka's own client (kafka-clients, lz4-java, slf4j-api), Java 17 or newer.
//
//     java -cp 'jars/*' ConsumeTopic.java localhost:9092 TAPE.main.trades.v1
//
// Delivery is at least once: after a crash a producer writes again what already stands in the topic, byte for byte. The
// headers `seq`, `part` and `last` number the messages of a partition, so there is one rule: take what is expected next,
// drop what came before, refuse a hole. A program that goes on for ever keeps `expected` beside its results.

import java.security.MessageDigest;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

class ConsumeTopic {
    public static void main(String[] args) throws Exception {
        var config = Map.<String, Object>of(
            "bootstrap.servers", args[0], "enable.auto.commit", false, "auto.offset.reset", "none");
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            for (var info : consumer.partitionsFor(args[1]))
                System.out.println(read(consumer, new TopicPartition(args[1], info.partition())));
        }
    }

    /** What a partition holds from its start to its present end, in one line. */
    static String read(Consumer<byte[], byte[]> consumer, TopicPartition partition) throws Exception {
        consumer.assign(List.of(partition));
        consumer.seekToBeginning(List.of(partition));
        long end = consumer.endOffsets(List.of(partition)).get(partition), messages = 0, rows = 0, repeats = 0;
        long[] expected = null;
        var digest = MessageDigest.getInstance("SHA-256");
        while (consumer.position(partition) < end)
            for (var message : consumer.poll(Duration.ofSeconds(10))) {
                long seq = header(message, "seq"), part = header(message, "part");
                if (expected == null) expected = new long[] {seq, 0};
                int order = Arrays.compare(new long[] {seq, part}, expected);
                if (order < 0) { repeats++; continue; }
                if (order > 0) throw new IllegalStateException("partition %d: seq %d part %d came, %d part %d is missing"
                    .formatted(partition.partition(), seq, part, expected[0], expected[1]));
                expected = header(message, "last") == 1 ? new long[] {seq + 1, 0} : new long[] {seq, part + 1};
                messages++;
                rows += header(message, "count"); // your work with message.value(), an Arrow IPC stream, goes here
                digest.update(message.value());
            }
        return "partition %d: %d messages, %d rows, %d repeats, sha256 %s".formatted(
            partition.partition(), messages, rows, repeats, HexFormat.of().formatHex(digest.digest()));
    }

    static long header(ConsumerRecord<byte[], byte[]> message, String name) {
        return Long.parseLong(new String(message.headers().lastHeader(name).value()));
    }
}
