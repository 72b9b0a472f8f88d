// Package ociarchive writes small container images as OCI archives.
package ociarchive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

const (
	mediaTypeIndex    = "application/vnd.oci.image.index.v1+json"
	mediaTypeManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaTypeConfig   = "application/vnd.oci.image.config.v1+json"
	mediaTypeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type object = map[string]any

// SingleProgram returns an OCI archive (OCI image layout 1.0 in a tar file)
// with one image of that name, whose only file is the program, which it runs.
// The same input gives the same bytes.
func SingleProgram(name, architecture, program string, content []byte) ([]byte, error) {
	layer, err := archive([]file{{program, content, 0o755}})
	if err != nil {
		return nil, err
	}
	blobs := []file{}
	add := func(mediaType string, blob []byte) descriptor {
		digest := sha256.Sum256(blob)
		blobs = append(blobs, file{"blobs/sha256/" + hex.EncodeToString(digest[:]), blob, 0o644})
		return descriptor{MediaType: mediaType, Digest: digestOf(blob), Size: len(blob)}
	}
	layerDescriptor := add(mediaTypeLayer, layer)
	config, err := json.Marshal(object{
		"architecture": architecture,
		"os":           "linux",
		"config":       object{"Entrypoint": []string{"/" + program}, "WorkingDir": "/"},
		"rootfs":       object{"type": "layers", "diff_ids": []string{layerDescriptor.Digest}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(object{
		"schemaVersion": 2,
		"mediaType":     mediaTypeManifest,
		"config":        add(mediaTypeConfig, config),
		"layers":        []descriptor{layerDescriptor},
	})
	if err != nil {
		return nil, err
	}
	named := add(mediaTypeManifest, manifest)
	// containerd takes the first annotation for the name, others the second.
	named.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
	index, err := json.Marshal(object{"schemaVersion": 2, "mediaType": mediaTypeIndex, "manifests": []descriptor{named}})
	if err != nil {
		return nil, err
	}
	return archive(append(blobs,
		file{"index.json", index, 0o644},
		file{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644},
	))
}

func digestOf(blob []byte) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256(blob))
}

type file struct {
	name    string
	content []byte
	mode    int64
}

func archive(files []file) ([]byte, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return buffer.Bytes(), err
}
